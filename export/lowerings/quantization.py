"""Quantised storage in standard operators; `refimpl.layers` (quantization, fp8, int4) says what each computes.

Codes of eight bits are either numbers, in the format itself, or bytes, which are looked up: few operators of a runtime move
numbers in eight bits. Scales in UE8M0 are bytes always.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph import Body, Value
from refimpl.layers.fp8 import FP8_FORMATS, SCALE_FORMATS
from refimpl.layers.int4 import NIBBLES, OFFSET
from refimpl.layers.quantization import E2M1, SCALE_BIAS, SCALE_NAN
from refimpl.numerics import Array

BYTES = np.dtype(np.uint8)


def mxfp4_decode(f: Body, blocks: Value, scales: Value, *, dtype: npt.DTypeLike = np.float32) -> Value:
    bytes_ = np.arange(256)
    pairs = f.constant(np.stack([E2M1[bytes_ & 15], E2M1[bytes_ >> 4]], axis=-1).astype(dtype))
    with np.errstate(over="ignore"):  # beyond the format, as in the layer
        powers = np.ldexp(1.0, bytes_ - SCALE_BIAS).astype(dtype)
    powers[SCALE_NAN] = np.nan
    values = f.Gather(pairs, f.cast(blocks, np.dtype(np.int32)), axis=0)
    shared = f.Gather(f.constant(powers), f.cast(scales, np.dtype(np.int32)), axis=0)
    decoded = f.Mul(values, f.Unsqueeze(shared, [-1, -2]))
    front = [0] * (len(scales.shape) - 1)
    return f.Reshape(decoded, [*front, -1])


def fp8_block_decode(
    f: Body,
    values: Value,
    scales: Value,
    *,
    block: tuple[int, int] = (128, 128),
    dtype: npt.DTypeLike = np.float32,
    format: str = "e4m3",
) -> Value:
    """format: of values that are bytes."""
    wide = _wide(dtype)
    rows, columns = block
    numbers, factors = _numbers(f, values, wide, FP8_FORMATS[format]), _numbers(f, scales, wide, SCALE_FORMATS["ue8m0"])
    row = f.Div(f.Range(np.asarray(0), f.Squeeze(f.Shape(values, start=-2, end=-1), [0]), np.asarray(1)), rows)
    by_row = f.Unsqueeze(f.Gather(factors, row, axis=-2), [-1])
    front = [0] * (len(values.shape) - 1)
    whole = f.Reshape(f.Expand(by_row, [columns]), [*front, -1])
    width = values.shape[-1]
    fits = isinstance(width, int) and width % columns == 0
    own = whole if fits else f.Slice(whole, [0], f.Shape(values, start=-1), [-1])
    return f.cast(f.known(f.Mul(numbers, own), values.shape), np.dtype(dtype))


def int4_group_decode(f: Body, packed: Value, scales: Value, *, group: int = 32, dtype: npt.DTypeLike = np.float32) -> Value:
    wide = _wide(dtype)
    # Words with a sign cannot be shifted in onnxruntime.
    words = f.Unsqueeze(f.cast(packed, np.dtype(np.uint32)), [-1])
    shifts = f.constant(np.arange(0, 4 * NIBBLES, 4, dtype=np.uint32))
    nibbles = f.BitwiseAnd(f.BitShift(words, shifts, direction="RIGHT"), f.constant(np.asarray(15, np.uint32)))
    front = [0] * (len(packed.shape) - 1)
    codes = f.Reshape(f.Sub(f.cast(nibbles, wide), OFFSET), [*front, -1, group])
    decoded = f.Reshape(f.Mul(codes, f.Unsqueeze(f.cast(scales, wide), [-1])), [*front, -1])
    return f.cast(decoded, np.dtype(dtype))


def _wide(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The format in which numbers and scales are multiplied."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def _numbers(f: Body, codes: Value, dtype: np.dtype[Any], format: np.dtype[Any]) -> Value:
    """`codes` in `dtype`; bytes are codes of `format`."""
    if codes.dtype != BYTES:
        return f.cast(codes, dtype)
    table: Array = np.arange(256, dtype=BYTES).view(format).astype(dtype)
    numbers: Value = f.Gather(f.constant(table), f.cast(codes, np.dtype(np.int32)), axis=0)
    return numbers
