"""Decoders of MXFP4, FP8 blocks and INT4 groups that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from conformance.family import WIDE_DTYPES
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.numerics import Array

DECODED = ("float64", "float32", "bfloat16")
UE8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)


def _codes(change: Callable[..., Any]) -> Function:
    def mxfp4_decode(blocks: Array, scales: Array, *, dtype: npt.DTypeLike = np.float32) -> Array:
        return layers.mxfp4_decode(change(blocks), scales, dtype=dtype)

    return mxfp4_decode


def _scaled(exponent_of: Callable[..., Any]) -> Function:
    def mxfp4_decode(blocks: Array, scales: Array, *, dtype: npt.DTypeLike = np.float32) -> Array:
        plain = layers.mxfp4_decode(blocks, np.full_like(scales, 127), dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return (plain * np.repeat(np.ldexp(1.0, exponent_of(scales.astype(int))), 32, axis=-1)).astype(dtype)

    return mxfp4_decode


def codes_in_twos_complement(blocks: Array, scales: Array, *, dtype: npt.DTypeLike = np.float32) -> Array:
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, 32).astype(int)
    values = np.where(codes > 7, codes - 16, codes) / 2
    return np.ldexp(values, scales.astype(int)[..., None] - 127).reshape(*scales.shape[:-1], -1).astype(dtype)


def halves_apart(blocks: Array, scales: Array, *, dtype: npt.DTypeLike = np.float32) -> Array:
    """All low halves of a block, then all high ones."""
    values = layers.mxfp4_decode(blocks, scales, dtype=dtype).reshape(*scales.shape, 16, 2)
    return np.swapaxes(values, -1, -2).reshape(*scales.shape[:-1], -1)


def _fp8(change: Callable[..., Any]) -> Function:
    """The decoder of changed values and scales."""

    def fp8_block_decode(
        values: Array, scales: Array, *, block: tuple[int, int] = (128, 128), dtype: npt.DTypeLike = np.float32
    ) -> Array:
        return layers.fp8_block_decode(*change(values, scales), block=block, dtype=dtype)

    return fp8_block_decode


def _spread(scales: Array, rows: Array, columns: Array) -> Array:
    """The scale of each entry, by the block of each row and of each column."""
    return scales.astype(np.float64)[..., rows[:, None], columns]


def block_size_derived_from_shapes(
    values: Array, scales: Array, *, block: tuple[int, int] = (128, 128), dtype: npt.DTypeLike = np.float32
) -> Array:
    sizes = [-(-size // count) for size, count in zip(values.shape[-2:], scales.shape[-2:], strict=True)]
    rows, columns = (np.arange(size) // of for size, of in zip(values.shape[-2:], sizes, strict=True))
    return (values.astype(np.float64) * _spread(scales, rows, columns)).astype(dtype)


def blocks_span_experts(
    values: Array, scales: Array, *, block: tuple[int, int] = (128, 128), dtype: npt.DTypeLike = np.float32
) -> Array:
    flat, shared = values.reshape(-1, values.shape[-1]), scales.reshape(-1, scales.shape[-1])
    rows, columns = np.arange(len(flat)) // block[0], np.arange(flat.shape[-1]) // block[1]
    return (flat.astype(np.float64) * _spread(shared, rows, columns)).astype(dtype).reshape(values.shape)


def scale_divides(
    values: Array, scales: Array, *, block: tuple[int, int] = (128, 128), dtype: npt.DTypeLike = np.float32
) -> Array:
    rows, columns = (np.arange(size) // of for size, of in zip(values.shape[-2:], block, strict=True))
    return (values.astype(np.float64) / _spread(scales, rows, columns)).astype(dtype)


def cast_to_the_scales(values: Array, scales: Array) -> Any:
    if scales.dtype == UE8M0:
        values = values.astype(np.float32).astype(UE8M0).astype(np.float32).astype(values.dtype)
    return values, scales


def _read_as(wrong: Array, right: Array) -> Function:
    """Codes of one format taken for those of another."""

    def change(values: Array, scales: Array) -> Any:
        return (values.view(wrong).astype(np.float32).astype(right) if values.dtype == right else values), scales

    return change


def no_scale_is_no_number(values: Array, scales: Array) -> Any:
    return values, (np.minimum(scales.view(np.uint8), 254).view(UE8M0) if scales.dtype == UE8M0 else scales)


def scales_rounded(values: Array, scales: Array) -> Any:
    return values, (scales.astype(ml_dtypes.bfloat16) if scales.dtype == np.float32 else scales)


def _int4(
    change: Callable[..., Any] = lambda nibbles: nibbles,
    *,
    offset: int = 8,
    shift: Callable[..., Any] = lambda packed, places: packed[..., None] >> places & 15,
) -> Function:
    """The decoder of changed nibbles."""

    def int4_group_decode(packed: Array, scales: Array, *, group: int = 32, dtype: npt.DTypeLike = np.float32) -> Array:
        nibbles = change(shift(packed, np.arange(0, 32, 4, dtype=np.int32))).reshape(*scales.shape, group).astype(np.float64)
        return ((nibbles - offset) * scales.astype(np.float64)[..., None]).reshape(*packed.shape[:-1], -1).astype(dtype)

    return int4_group_decode


def scales_alternate(packed: Array, scales: Array, *, group: int = 32, dtype: npt.DTypeLike = np.float32) -> Array:
    codes = layers.int4_group_decode(packed, np.ones_like(scales), group=group, dtype=np.float64)
    return (codes * np.tile(scales.astype(np.float64), group)).astype(dtype)


def one_scale_a_row(packed: Array, scales: Array, *, group: int = 32, dtype: npt.DTypeLike = np.float32) -> Array:
    return layers.int4_group_decode(packed, np.broadcast_to(scales[..., :1], scales.shape), group=group, dtype=dtype)


MXFP4, FP8, INT4 = "mxfp4_decode", "fp8_block_decode", "int4_group_decode"
ROUNDED = _fp8(scales_rounded)
MUTANTS = tuple(
    layer(id, function, faulty, says, dtypes=WIDE_DTYPES if faulty is ROUNDED else DECODED)
    for id, function, faulty, says in (
        ("high-half-first", MXFP4, _codes(lambda blocks: blocks >> 4 | blocks << 4), "The high half of a byte comes first."),
        ("halves-apart", MXFP4, halves_apart, "All low halves of a block come first, then all high ones."),
        ("mxfp4-scale-bias-125", MXFP4, _scaled(lambda scales: scales - 125), "The exponent of the scale is biased by 125."),
        ("mx-scale-shift-left-raw", MXFP4, _scaled(lambda scales: scales), "The exponent of the scale is not biased."),
        ("no-scale-taken-for-one", MXFP4, _scaled(lambda scales: scales - 127), "A scale that is no number counts as 2^128."),
        ("codes-in-twos-complement", MXFP4, codes_in_twos_complement, "Codes of four bits are read as integers."),
        (
            "fp8-block-size-derived-from-shapes-ceil",
            FP8,
            block_size_derived_from_shapes,
            "Blocks are as large as it takes to share the rows among the scales evenly.",
        ),
        (
            "fp8-moe-blocks-span-experts",
            FP8,
            blocks_span_experts,
            "Blocks run on from the rows of one expert to those of the next.",
        ),
        ("fp8-ue8m0-scale-dtype-cast", FP8, _fp8(cast_to_the_scales), "Values are cast to the scales' format of powers of 2."),
        ("scale-divides", FP8, scale_divides, "Scales divide."),
        (
            "e4m3-with-infinities",
            FP8,
            _fp8(_read_as(ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn)),
            "The highest codes of E4M3 are read as infinite.",
        ),
        (
            "e4m3-with-another-bias",
            FP8,
            _fp8(_read_as(ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e4m3fn)),
            "E4M3 is read in the variant whose exponent is biased by one more.",
        ),
        (
            "e5m2-without-infinities",
            FP8,
            _fp8(_read_as(ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e5m2)),
            "E5M2 is read in the variant whose exponent is biased by one more.",
        ),
        (
            "no-ue8m0-scale-taken-for-one",
            FP8,
            _fp8(no_scale_is_no_number),
            "A scale of powers of 2 that is no number counts as the largest.",
        ),
        ("scales-rounded-to-bfloat16", FP8, ROUNDED, "Scales are rounded to bfloat16."),
        (
            "highest-nibble-first",
            INT4,
            _int4(lambda nibbles: nibbles[..., ::-1]),
            "The highest four bits of a word come first.",
        ),
        (
            "nibbles-in-twos-complement",
            INT4,
            _int4(lambda nibbles: np.where(nibbles > 7, nibbles - 16, nibbles), offset=0),
            "Four bits are read in two's complement.",
        ),
        ("offset-of-7", INT4, _int4(offset=7), "7 is subtracted and not 8."),
        ("nibble-offset-dropped", INT4, _int4(offset=0), "Nothing is subtracted."),
        (
            "sign-of-the-word-in-its-last-nibble",
            INT4,
            _int4(shift=lambda packed, places: (packed[..., None] << 28 - places) >> 28),
            "The shift carries the sign of the word into its last four bits.",
        ),
        ("scales-alternate", INT4, scales_alternate, "Neighbours have the scales of different groups."),
        ("one-scale-a-row", INT4, one_scale_a_row, "All groups of a row have the scale of the first."),
    )
)
