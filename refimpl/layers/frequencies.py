"""Rotary frequencies: how fast each pair of a head turns, and the ways in which longer contexts are reached by slowing it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from refimpl.numerics import Array
from refimpl.shapes import check_counts, check_flags, check_numbers


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


def _magnitude(factor: float, scale: float) -> float:
    """m of `yarn_attention_factor`."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _yarn_dimension(rotary_dim: int, theta: float, original_max_position_embeddings: int, turns: float) -> float:
    """The real-valued pair that makes so many turns within the original length."""
    length = original_max_position_embeddings / (2 * math.pi * turns)
    return rotary_dim * math.log(length) / (2 * math.log(theta))
