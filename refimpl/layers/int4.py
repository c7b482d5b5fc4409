"""Quantised storage in INT4: numbers of four bits, packed into words, in groups of a row that share a scale."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from refimpl.layers.quantization import check_decoded, decoding_format
from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_floats

NIBBLES = 8  # of a word
OFFSET = 8
LARGEST = 7
INT4_SCALE_FORMATS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def int4_group_decode(packed: Array, scales: Array, *, group: int = 32, dtype: npt.DTypeLike = np.float32) -> Array:
    """Numbers stored as INT4: eight codes of four bits in a word, and a scale for each group of a row.

    nibble[i] = bits 4·(i % 8) to 4·(i % 8) + 3 of packed[i // 8]
    W[i] = (nibble[i] - 8) · scales[i // group]

    Shapes: packed int32 [..., I / 8], scales float32, bfloat16 or float16 [..., I / group]; the result is [..., I] in `dtype`.
    Rules:
      R1  the lowest four bits of a word come first.
      R2  a nibble is unsigned and 8 stands for zero: numbers reach from -8 to 7.
      R3  a group is a stretch of the last axis, the input axis of a weight.
    Dtype: T1  nibbles and scales are decoded to float32 (to float64 for that dtype), multiplied, and cast to `dtype` last.
    Pitfalls: the highest four bits first; nibbles read as two's complement; the sign of the word drawn into its last nibble;
      groups along the output axis.
    Source: Kimi-K2-Thinking release (format "pack-quantized"); rows that are no multiple of the group: an error there too.
    """
    sizes = check("int4_group_decode", packed=(packed, "...Q"), scales=(scales, "...N"))
    _check_group("int4_group_decode", group)
    if packed.dtype != np.int32:
        raise ValueError(f"int4_group_decode: packed has dtype {packed.dtype} but needs int32")
    if scales.dtype not in INT4_SCALE_FORMATS.values():
        known = ", ".join(INT4_SCALE_FORMATS)
        raise ValueError(f"int4_group_decode: scales has dtype {scales.dtype} but needs one of {known}")
    check_decoded("int4_group_decode", dtype)
    if packed.shape[:-1] != scales.shape[:-1] or sizes["Q"] * NIBBLES != sizes["N"] * group:
        needed = (*scales.shape[:-1], sizes["N"] * group // NIBBLES)
        raise ValueError(
            f"int4_group_decode: packed has shape {packed.shape} but scales {scales.shape} of groups of {group} need {needed}"
        )
    wide = decoding_format(dtype)
    nibbles = packed[..., None] >> np.arange(0, 4 * NIBBLES, 4, dtype=np.int32) & 15
    decoded: Array = nibbles.reshape(*scales.shape, group).astype(wide)
    np.subtract(decoded, OFFSET, out=decoded)  # in place, as matrices may be large
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the format; infinity times 0
        np.multiply(decoded, scales.astype(wide)[..., None], out=decoded)
        return decoded.reshape(*scales.shape[:-1], sizes["N"] * group).astype(dtype, copy=False)


def int4_group_encode(weight: Array, *, group: int = 32, scale_format: str = "bfloat16") -> tuple[Array, Array]:
    """Numbers as INT4, symmetric around zero: the largest of a group becomes 7 or -7.

    scale = max |w of the group| / 7; nibble = round(w / scale) + 8

    Shapes: weight [..., I] with I a multiple of `group`, itself one of 8; packed int32 [..., I / 8],
      scales [..., I / group].
    Rules:
      R1  halves are rounded to the even number; code -8 is not used.
      R2  a group of zeros has scale 1; other scales are kept between the smallest normal and the largest number of the format.
      R3  what was decoded in float64 and does not hold -8 encodes to numbers that decode alike.
    Dtype: T1  scales are rounded to their format before they divide, in float64.
    Source: as `int4_group_decode`; the choice of the scale is ours, as releases were trained with theirs.
    """
    sizes = check("int4_group_encode", weight=(weight, "...I"))
    check_floats("int4_group_encode", weight=weight)
    _check_group("int4_group_encode", group)
    if scale_format not in INT4_SCALE_FORMATS:
        raise ValueError(
            f"int4_group_encode: scale_format is {scale_format!r} but must be one of {', '.join(INT4_SCALE_FORMATS)}"
        )
    if sizes["I"] % group:
        raise ValueError(f"int4_group_encode: weight has {sizes['I']} entries in its last axis but needs a multiple of {group}")
    if not np.isfinite(weight).all():
        raise ValueError("int4_group_encode: weight has entries that are NaN or infinite but must be finite")
    stored = INT4_SCALE_FORMATS[scale_format]
    groups = weight.astype(np.float64).reshape(*weight.shape[:-1], sizes["I"] // group, group)
    largest = np.max(np.abs(groups), axis=-1)
    limits = ml_dtypes.finfo(stored)
    scales = np.clip(np.where(largest == 0, 1.0, largest / LARGEST), float(limits.smallest_normal), float(limits.max))
    scales = scales.astype(stored)
    codes = np.clip(np.round(groups / scales.astype(np.float64)[..., None]), -LARGEST, LARGEST).astype(np.int64) + OFFSET
    words = codes.reshape(*weight.shape[:-1], sizes["I"] // NIBBLES, NIBBLES) << np.arange(0, 4 * NIBBLES, 4)
    return np.sum(words, axis=-1).astype(np.uint32).view(np.int32), scales


def _check_group(layer: str, group: int) -> None:
    check_counts(layer, group=group)
    if group % NIBBLES:
        raise ValueError(f"{layer}: group is {group} but needs a multiple of {NIBBLES}")
