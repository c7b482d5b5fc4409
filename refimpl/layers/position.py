"""Position: rotary frequencies and their scalings, the rotation itself, learned positions, and the order of tokens.

A layer without position encoding (NoPE) calls none of these: it sees the past as a set.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_flags, check_floats, check_integers, check_numbers


def rope_frequencies(rotary_dim: int, *, theta: float, dtype: npt.DTypeLike = np.float64) -> Array:
    """Angular frequencies of rotary position embedding, in radians a position.

    f_i = theta^(-2i / P)          i = 0 .. P/2 - 1

    Shapes: rotary_dim is P, the even number of rotated entries of a head; the result is [P/2].
    Rules: R1  the exponent's denominator is P, the rotated width, also where a head is wider (partial rotary).
    Dtype: T1  float32 in every released model, whatever the model's format. This function computes in `dtype`.
    Pitfalls: the head width as denominator (partial-rotary-posthoc-hack); bfloat16 tables (rope-inv-freq-bf16).
    Source: Su et al., arXiv:2104.09864, section 3.2.2.
    """
    if not (isinstance(rotary_dim, (int, np.integer)) and rotary_dim > 0 and rotary_dim % 2 == 0):
        raise ValueError(f"rope_frequencies: rotary_dim is {rotary_dim!r} but needs a positive even integer")
    check_numbers("rope_frequencies", theta=theta, above=0)
    exponents = np.arange(0, rotary_dim, 2, dtype=dtype) / rotary_dim
    return 1 / float(theta) ** exponents


def linear_rope_frequencies(rotary_dim: int, *, theta: float, factor: float, dtype: npt.DTypeLike = np.float64) -> Array:
    """Position interpolation: every frequency divided by `factor`.

    f'_i = f_i / factor

    Shapes, dtype: as `rope_frequencies`.
    Rules: R1  dividing frequencies is the same as dividing positions.
    Source: Chen et al., arXiv:2306.15595; Gemma 3 (global layers).
    """
    check_numbers("linear_rope_frequencies", factor=factor, above=0)
    return rope_frequencies(rotary_dim, theta=theta, dtype=dtype) / float(factor)


def llama3_rope_frequencies(
    rotary_dim: int,
    *,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """Llama 3 scaling: long waves are interpolated, short ones kept, those between blended.

    n_i = L0 f_i / 2π                             turns within the original length L0
    t_i = (n_i - low) / (high - low)
    f'_i = f_i                                    when n_i > high
           f_i / factor                           when n_i < low
           (1 - t_i) f_i / factor + t_i f_i       between

    Shapes, dtype: as `rope_frequencies`; original_max_position_embeddings is L0, in tokens.
    Rules:
      R1  the blend is linear in the number of turns, not in the wavelength.
      R2  low = high leaves no band between: nothing is divided by zero.
    Pitfalls: scaling ignored (llama3-scaling-ignored); other constants (llama3-scaling-wrong-factor-constants); a blend
      linear in the wavelength (llama3-smooth-on-wavelength).
    Source: Llama 3.1 release, `apply_scaling`.
    """
    check_numbers("llama3_rope_frequencies", factor=factor, above=0)
    check_numbers("llama3_rope_frequencies", low_freq_factor=low_freq_factor, high_freq_factor=high_freq_factor, above=0)
    check_counts("llama3_rope_frequencies", original_max_position_embeddings=original_max_position_embeddings)
    frequencies = rope_frequencies(rotary_dim, theta=theta, dtype=dtype)
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    band = high_freq_factor - low_freq_factor
    blend = (turns - low_freq_factor) / band if band else np.zeros_like(turns)
    between = (1 - blend) * frequencies / factor + blend * frequencies
    scaled = np.where(turns < low_freq_factor, frequencies / factor, between)
    return np.where(turns > high_freq_factor, frequencies, scaled).astype(dtype)


def yarn_rope_frequencies(
    rotary_dim: int,
    *,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """YaRN scaling: dimensions that turn often are kept, those that turn rarely interpolated, with a ramp between.

    c(β) = P ln(L0 / 2πβ) / (2 ln theta)                   the dimension that makes β turns within L0
    lo = c(beta_fast), hi = c(beta_slow)                   floor and ceil of them when `truncate`
    lo = max(lo, 0), hi = min(hi, P - 1)                   and hi + 0.001 when they are equal
    ramp_i = clip((i - lo) / (hi - lo), 0, 1)
    f'_i = f_i (1 - ramp_i) + (f_i / factor) ramp_i

    Shapes, dtype: as `rope_frequencies`; original_max_position_embeddings is L0, in tokens.
    Rules:
      R1  lo is rounded down and hi up only when `truncate`.
      R2  the bounds are clipped to 0 and P - 1; the upper one counts entries of the head, not pairs.
      R3  equal bounds give a step, not a division by zero.
    Pitfalls: `truncate: false` ignored (yarn-truncate-flag-ignored-sglang); bounds at 0 refused
      (yarn-zero-low-boundary-rejected). The companion factor on cos and sin is `yarn_attention_factor`.
    Source: Peng et al., arXiv:2309.00071, section 3.2; gpt-oss (no truncation).
    """
    check_numbers("yarn_rope_frequencies", factor=factor, beta_fast=beta_fast, beta_slow=beta_slow, above=0)
    check_numbers("yarn_rope_frequencies", theta=theta, above=1)
    check_flags("yarn_rope_frequencies", truncate=truncate)
    check_counts("yarn_rope_frequencies", original_max_position_embeddings=original_max_position_embeddings)
    frequencies = rope_frequencies(rotary_dim, theta=theta, dtype=dtype)
    low, high = (_yarn_dimension(rotary_dim, theta, original_max_position_embeddings, beta) for beta in (beta_fast, beta_slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(rotary_dim // 2, dtype=dtype) - low) / (high - low), 0, 1)
    return (frequencies * (1 - ramp) + frequencies / factor * ramp).astype(dtype)


def grok_yarn_rope_frequencies(
    rotary_dim: int,
    *,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    extrapolation_factor: float = 1.0,
    blend: Literal["linear", "log"] = "linear",
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """YaRN scaling as Grok 2 has it: the kept share has a factor of its own, and the ramp may be one of logarithms.

    lo, hi = as in `yarn_rope_frequencies` with `truncate`, but lo - 0.001 when they are equal
    kept_i = extrapolation_factor · (1 - clip((i - lo) / (hi - lo), 0, 1))
    f'_i   = f_i kept_i + (f_i / factor) (1 - kept_i)             blend "linear"
             f_i^kept_i (f_i / factor)^(1 - kept_i)               blend "log"

    Shapes, dtype: as `rope_frequencies`; original_max_position_embeddings is L0, in tokens.
    Rules:
      R1  the blends agree where nothing or everything is kept; between them, "log" is the smaller.
      R2  equal bounds give a step that the pair of the bound has already taken; in `yarn_rope_frequencies` it has not.
      R3  an extrapolation_factor below 1 interpolates the fastest pairs as well.
    Pitfalls: cos and sin have no factor here; `yarn_attention_factor` belongs to the other YaRN.
    Source: SGLang, the engine that the release of Grok 2 names (`rope_type` yarn, yarn_linear, yarn_log).
    """
    name = "grok_yarn_rope_frequencies"
    check_numbers(name, factor=factor, beta_fast=beta_fast, beta_slow=beta_slow, above=0)
    check_numbers(name, theta=theta, above=1)
    check_numbers(name, extrapolation_factor=extrapolation_factor, at_least=0)
    check_counts(name, original_max_position_embeddings=original_max_position_embeddings)
    if blend not in ("linear", "log"):
        raise ValueError(f"{name}: blend is {blend!r} but must be 'linear' or 'log'")
    frequencies = rope_frequencies(rotary_dim, theta=theta, dtype=dtype)
    fast, slow = (_yarn_dimension(rotary_dim, theta, original_max_position_embeddings, beta) for beta in (beta_fast, beta_slow))
    low, high = max(float(math.floor(fast)), 0.0), min(math.ceil(slow), rotary_dim - 1)
    if low == high:
        low -= 0.001
    ramp = np.clip((np.arange(rotary_dim // 2, dtype=dtype) - low) / (high - low), 0, 1)
    kept = (1 - ramp) * float(extrapolation_factor)
    if blend == "log":
        return (frequencies * float(factor) ** (kept - 1)).astype(dtype)
    return (frequencies * kept + frequencies / factor * (1 - kept)).astype(dtype)


def theta_scaled_rope_frequencies(
    rotary_dim: int,
    *,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """Rotary frequencies of a larger base, with which the wave as long as the original length becomes `factor` times as long.

    a    = ln(L0 factor / 2π) / ln(L0 / 2π)
    f'_i = (theta^a)^(-2i / P) = f_i^a

    Shapes, dtype: as `rope_frequencies`; original_max_position_embeddings is L0, in tokens.
    Rules:
      R1  a frequency of 2π / L0 is divided by exactly `factor`, faster ones by less, slower ones by more; 1 stays 1.
    Pitfalls: theta times factor in place of the power.
    Source: Liu et al., arXiv:2310.05209 (larger bases); SGLang, the engine that the release of Grok 2 names (`theta_scale`).
    """
    name = "theta_scaled_rope_frequencies"
    check_numbers(name, factor=factor, above=0)
    check_counts(name, original_max_position_embeddings=original_max_position_embeddings)
    turns = original_max_position_embeddings / (2 * math.pi)
    if turns <= 1:
        raise ValueError(
            f"{name}: original_max_position_embeddings is {original_max_position_embeddings} but needs an integer above 2π"
        )
    power = math.log(turns * factor) / math.log(turns)
    return (rope_frequencies(rotary_dim, theta=theta, dtype=dtype) ** power).astype(dtype)


def yarn_attention_factor(factor: float, *, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """The number that YaRN multiplies cos and sin by, so that q·k grows by its square.

    m(s, a) = 1 for s <= 1, else 0.1 a ln s + 1
    result  = m(factor, mscale) / m(factor, mscale_all_dim) when both are given and not zero, else m(factor, 1)

    Rules: R1  a configured `attention_factor` replaces this number; it is neither multiplied on top nor put through m.
    Pitfalls: yarn-attention-factor-ignored, yarn-attention-factor-squared, yarn-attention-factor-through-log.
    Source: Peng et al., arXiv:2309.00071, section 3.3; DeepSeek-V3 (mscale).
    """
    check_numbers("yarn_attention_factor", factor=factor, above=0)
    check_numbers("yarn_attention_factor", mscale=mscale or 0, mscale_all_dim=mscale_all_dim or 0)
    if not (mscale and mscale_all_dim):
        return _magnitude(factor, 1.0)
    divisor = _magnitude(factor, mscale_all_dim)
    if divisor == 0:
        raise ValueError(f"yarn_attention_factor: mscale_all_dim is {mscale_all_dim}, which makes the divisor 0")
    return _magnitude(factor, mscale) / divisor


def yarn_softmax_factor(factor: float, *, mscale_all_dim: float | None = None) -> float:
    """The number that YaRN multiplies the scale of latent attention by, over whole heads and not their rotated part alone.

    result = m(factor, mscale_all_dim)² when mscale_all_dim is given and not zero, else 1; m as in `yarn_attention_factor`

    Rules: R1  it comes on top of the factor on cos and sin, of which it is no part.
    Pitfalls: mla-yarn-softmax-mscale-missing, mla-v2-mscale-all-dim-lost-in-refactor; in any other attention it is wrong
      (yarn-softmax-scale-on-non-mla).
    Source: DeepSeek-V3 release.
    """
    check_numbers("yarn_softmax_factor", factor=factor, above=0)
    check_numbers("yarn_softmax_factor", mscale_all_dim=mscale_all_dim or 0)
    return _magnitude(factor, mscale_all_dim) ** 2 if mscale_all_dim else 1.0


def rope_cos_sin(positions: Array, inv_freq: Array, *, attention_factor: float = 1.0) -> tuple[Array, Array]:
    """Cosines and sines of the rotation angles.

    cos_tj = attention_factor · cos(positions_t f_j), and sin likewise

    Shapes: positions int [B, T], inv_freq [P/2]; both results [B, T, P/2].
    Rules:
      R1  positions are used as they are: any integers, in any order, with gaps.
      R2  attention_factor multiplies both cos and sin.
    Dtype: T1  angles, cos and sin are float32 in every released model, and cast to the model's format only then.
           This function computes in the dtype of inv_freq.
    Pitfalls: angles in bfloat16 (rope-half-neox, rope-table-bf16-candle, rope-autocast-matmul); a decoded token
      rotated at its neighbour's position (decode-rope-position-off-by-one).
    Source: Su et al., arXiv:2104.09864, section 3.2.2.
    """
    check("rope_cos_sin", positions=(positions, "BT"), inv_freq=(inv_freq, "P"))
    check_integers("rope_cos_sin", positions=positions)
    check_floats("rope_cos_sin", inv_freq=inv_freq)
    check_numbers("rope_cos_sin", attention_factor=attention_factor)
    angles_BTP = positions[:, :, None].astype(inv_freq.dtype) * inv_freq
    factor = inv_freq.dtype.type(attention_factor)
    return np.cos(angles_BTP) * factor, np.sin(angles_BTP) * factor


def rotary_embedding(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    """Rotate the first P entries of every head in the plane of each pair.

    (a, b) -> (a cos - b sin, b cos + a sin)
    pairs of entries: (i, i + P/2) in the half-split layout, (2i, 2i + 1) when `interleaved`

    Shapes: x [B, T, H, K], cos and sin [B, T, P/2] with P <= K; result as x.
    Rules:
      R1  half-split pairs are (i, i + P/2); interleaved pairs are (2i, 2i + 1) and stay in their places.
      R2  entries from P on pass unchanged (partial rotary).
      R3  every head is rotated alike.
      R4  the scores of rotated q and k depend on the difference of their positions only.
    Dtype: T1  products and sums in the model's format, with cos and sin cast to it. This function computes in the dtype of x.
    Pitfalls: the other pairing (rope-interleaved-instead-of-half, mla-rope-not-interleaved); pairs taken over K instead
      of P (qk-norm-rope-kernel-partial-neox).
    Source: Su et al., arXiv:2104.09864, equation 34; GPT-NeoX (half-split).
    """
    check_flags("rotary_embedding", interleaved=interleaved)
    sizes = check("rotary_embedding", x=(x, "BTHK"), cos=(cos, "BTP"), sin=(sin, "BTP"))
    check_floats("rotary_embedding", x=x, cos=cos, sin=sin)
    half, width = sizes["P"], sizes["K"]
    if 2 * half > width:
        raise ValueError(f"rotary_embedding: cos has {half} pairs, which rotate {2 * half} entries, but heads have {width}")
    rotated_part, rest = x[..., : 2 * half], x[..., 2 * half :]
    first, second = (
        (rotated_part[..., 0::2], rotated_part[..., 1::2])
        if interleaved
        else (rotated_part[..., :half], rotated_part[..., half:])
    )
    cos_BT1P, sin_BT1P = cos[:, :, None, :], sin[:, :, None, :]
    new_first = first * cos_BT1P - second * sin_BT1P
    new_second = second * cos_BT1P + first * sin_BT1P
    if interleaved:
        rotated = np.stack([new_first, new_second], axis=-1).reshape(rotated_part.shape)
    else:
        rotated = np.concatenate([new_first, new_second], axis=-1)
    return np.concatenate([rotated, rest], axis=-1) if 2 * half < width else rotated


def position_embedding(positions: Array, weight: Array) -> Array:
    """Learned absolute positions: row `position` of a table.

    y_t = weight[positions_t]

    Shapes: positions int [B, T], weight [C, D]; y [B, T, D].
    Rules:
      R1  positions count the real tokens of a row, so padding on the left does not shift them.
      R2  a negative position, which is that of padding, takes row 0; a position of C or more is an error.
    Dtype: T1  a copy, nothing is computed.
    Pitfalls: positions counted over the padding (left-pad-learned-absolute).
    Source: Radford et al., GPT-2.
    """
    sizes = check("position_embedding", positions=(positions, "BT"), weight=(weight, "CD"))
    check_integers("position_embedding", positions=positions)
    check_floats("position_embedding", weight=weight)
    if positions.size and positions.max() >= sizes["C"]:
        raise ValueError(
            f"position_embedding: position {positions.max()} is out of range: the table has {sizes['C']} positions"
        )
    return weight[np.maximum(positions, 0)]


def token_order(attention_mask: Array) -> Array:
    """The place of each token among the real tokens of its row, and -1 for padding.

    order_s = (sum of mask up to and with s) - 1 where mask_s = 1, else -1

    Shapes: attention_mask 0/1 [B, S]; result int64 [B, S].
    Rules: R1  padding may stand anywhere: left, right or between.
    Dtype: integers.
    Pitfalls: columns counted instead of tokens (left-pad-learned-absolute).
    """
    check("token_order", attention_mask=(attention_mask, "BS"))
    if attention_mask.dtype.kind not in "biu" or not np.isin(attention_mask, (0, 1)).all():
        raise ValueError(f"token_order: attention_mask has dtype {attention_mask.dtype} or other values but needs 0/1")
    mask: Any = attention_mask.astype(np.int64)
    return np.where(mask == 1, np.cumsum(mask, axis=1) - 1, -1)


def log_length_temperature(positions: Array, *, length: int, dtype: npt.DTypeLike = np.float64) -> Array:
    """Attention temperature that grows with the logarithm of the query's position, beyond a length.

    τ_t = ln(positions_t) / ln(length) where positions_t > length, else 1

    Shapes: positions int [B, T], length in tokens; result [B, T] in `dtype`, for `attention(temperature=)`.
    Rules: R1  the position is counted from 0, and the one at `length` itself still has temperature 1.
    Dtype: T1  float32 in the released model's engines. This function computes in `dtype`.
    Pitfalls: the ratio of lengths in place of that of logarithms (grok-temperature-reciprocal-vs-log).
    Source: Grok 2 release (`attn_temperature_len`) as its recommended engine computes it.
    """
    check("log_length_temperature", positions=(positions, "BT"))
    check_integers("log_length_temperature", positions=positions)
    check_counts("log_length_temperature", length=length)
    if length < 2:
        raise ValueError(f"log_length_temperature: length is {length} but needs an integer above 1")
    far = np.maximum(positions.astype(np.int64), length).astype(dtype)
    return np.log(far) / np.log(np.asarray(length, dtype))


def log_floor_temperature(
    positions: Array, *, scale: float, floor: int, offset: int = 1, dtype: npt.DTypeLike = np.float64
) -> Array:
    """Attention temperature that grows by steps with the logarithm of the query's position.

    τ_t = 1 + scale · ln(1 + ⌊(positions_t + offset) / floor⌋)

    Shapes: positions int [B, T], floor in tokens; result [B, T] in `dtype`, for `attention(temperature=)`.
    Rules:
      R1  with offset 1 the first step is at position floor - 1, with offset 0 at position floor.
      R2  no position is negative (padding counts as 0): one that is, is an error.
    Dtype: T1  float32 in released models. This function computes in `dtype`.
    Pitfalls: the offset of Llama 4 where there is none.
    Source: Nakanishi, arXiv:2501.19399; Llama 4 release (`attn_scale`, `floor_scale`, layers without positions; offset 1);
      Mistral Large 3 release (`llama_4_scaling`, all layers; offset 0).
    """
    check("log_floor_temperature", positions=(positions, "BT"))
    check_integers("log_floor_temperature", positions=positions)
    check_counts("log_floor_temperature", floor=floor)
    check_numbers("log_floor_temperature", scale=scale)
    if not isinstance(offset, (int, np.integer)) or offset < 0:
        raise ValueError(f"log_floor_temperature: offset is {offset!r} but needs an integer, 0 or more")
    if positions.size and positions.min() < 0:
        raise ValueError(f"log_floor_temperature: position {positions.min()} is negative, but a temperature needs 0 or more")
    steps = (positions.astype(np.int64) + offset) // floor
    return 1 + np.asarray(scale, dtype) * np.log(1 + steps.astype(dtype))


def _magnitude(factor: float, scale: float) -> float:
    """m of `yarn_attention_factor`."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _yarn_dimension(rotary_dim: int, theta: float, original_max_position_embeddings: int, turns: float) -> float:
    """The real-valued pair that makes so many turns within the original length."""
    length = original_max_position_embeddings / (2 * math.pi * turns)
    return rotary_dim * math.log(length) / (2 * math.log(theta))
