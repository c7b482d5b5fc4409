"""Decoders of FP8 blocks and INT4 groups that are wrong as real ones have been."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from refimpl import layers

EVERY, WIDE = ("float64", "float32", "bfloat16"), ("float64", "float32")
UE8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)


def _fp8(change):
    """The decoder of changed values and scales."""

    def fp8_block_decode(values, scales, *, block=(128, 128), dtype=np.float32):
        return layers.fp8_block_decode(*change(values, scales), block=block, dtype=dtype)

    return fp8_block_decode


def _spread(scales, rows, columns):
    """The scale of each entry, by the block of each row and of each column."""
    return scales.astype(np.float64)[..., rows[:, None], columns]


def block_size_derived_from_shapes(values, scales, *, block=(128, 128), dtype=np.float32):
    sizes = [-(-size // count) for size, count in zip(values.shape[-2:], scales.shape[-2:], strict=True)]
    rows, columns = (np.arange(size) // of for size, of in zip(values.shape[-2:], sizes, strict=True))
    return (values.astype(np.float64) * _spread(scales, rows, columns)).astype(dtype)


def blocks_span_experts(values, scales, *, block=(128, 128), dtype=np.float32):
    flat, shared = values.reshape(-1, values.shape[-1]), scales.reshape(-1, scales.shape[-1])
    rows, columns = np.arange(len(flat)) // block[0], np.arange(flat.shape[-1]) // block[1]
    return (flat.astype(np.float64) * _spread(shared, rows, columns)).astype(dtype).reshape(values.shape)


def scale_divides(values, scales, *, block=(128, 128), dtype=np.float32):
    rows, columns = (np.arange(size) // of for size, of in zip(values.shape[-2:], block, strict=True))
    return (values.astype(np.float64) / _spread(scales, rows, columns)).astype(dtype)


def cast_to_the_scales(values, scales):
    if scales.dtype == UE8M0:
        values = values.astype(np.float32).astype(UE8M0).astype(np.float32).astype(values.dtype)
    return values, scales


def _read_as(wrong, right):
    """Codes of one format taken for those of another."""

    def change(values, scales):
        return (values.view(wrong).astype(np.float32).astype(right) if values.dtype == right else values), scales

    return change


def no_scale_is_no_number(values, scales):
    return values, (np.minimum(scales.view(np.uint8), 254).view(UE8M0) if scales.dtype == UE8M0 else scales)


def scales_rounded(values, scales):
    return values, (scales.astype(ml_dtypes.bfloat16) if scales.dtype == np.float32 else scales)


def _int4(change=lambda nibbles: nibbles, *, offset=8, shift=lambda packed, places: packed[..., None] >> places & 15):
    """The decoder of changed nibbles."""

    def int4_group_decode(packed, scales, *, group=32, dtype=np.float32):
        nibbles = change(shift(packed, np.arange(0, 32, 4, dtype=np.int32))).reshape(*scales.shape, group).astype(np.float64)
        return ((nibbles - offset) * scales.astype(np.float64)[..., None]).reshape(*packed.shape[:-1], -1).astype(dtype)

    return int4_group_decode


def scales_alternate(packed, scales, *, group=32, dtype=np.float32):
    codes = layers.int4_group_decode(packed, np.ones_like(scales), group=group, dtype=np.float64)
    return (codes * np.tile(scales.astype(np.float64), group)).astype(dtype)


def one_scale_a_row(packed, scales, *, group=32, dtype=np.float32):
    return layers.int4_group_decode(packed, np.broadcast_to(scales[..., :1], scales.shape), group=group, dtype=dtype)


FP8, INT4 = "fp8_block_decode", "int4_group_decode"
# Fault -> the function, the implementation that has it, and the formats in which it exists.
QUANTIZATION_FAULTS = {
    "fp8-block-size-derived-from-shapes-ceil": (FP8, block_size_derived_from_shapes, EVERY),
    "fp8-moe-blocks-span-experts": (FP8, blocks_span_experts, EVERY),
    "fp8-ue8m0-scale-dtype-cast": (FP8, _fp8(cast_to_the_scales), EVERY),
    "scale divides": (FP8, scale_divides, EVERY),
    "E4M3 with infinities": (FP8, _fp8(_read_as(ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn)), EVERY),
    "E4M3 with another bias": (FP8, _fp8(_read_as(ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e4m3fn)), EVERY),
    "E5M2 without infinities": (FP8, _fp8(_read_as(ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e5m2)), EVERY),
    "a scale in UE8M0 that is no number taken for one": (FP8, _fp8(no_scale_is_no_number), EVERY),
    "scales rounded to bfloat16": (FP8, _fp8(scales_rounded), WIDE),
    "highest nibble first": (INT4, _int4(lambda nibbles: nibbles[..., ::-1]), EVERY),
    "nibbles in two's complement": (INT4, _int4(lambda nibbles: np.where(nibbles > 7, nibbles - 16, nibbles), offset=0), EVERY),
    "offset of 7": (INT4, _int4(offset=7), EVERY),
    "offset dropped": (INT4, _int4(offset=0), EVERY),
    "sign of the word in its last nibble": (
        INT4,
        _int4(shift=lambda packed, places: (packed[..., None] << 28 - places) >> 28),
        EVERY,
    ),
    "scales alternate": (INT4, scales_alternate, EVERY),
    "one scale a row": (INT4, one_scale_a_row, EVERY),
}
