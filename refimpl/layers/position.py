"""Position: the rotation of queries and keys, learned positions, the order of tokens, and temperatures that follow it.

A layer without position encoding (NoPE) calls none of these: it sees the past as a set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_flags, check_floats, check_integers, check_numbers


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
