"""Quantised storage: all codes at all their places, scales at both ends of what the format holds.

Judged exactly: scales have so few significant bits that no product needs rounding.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from conformance.family import Family, Inputs, Values, edge
from refimpl.layers.fp8 import FP8_FORMATS, SCALE_FORMATS
from refimpl.layers.int4 import INT4_SCALE_FORMATS, NIBBLES
from refimpl.layers.quantization import BLOCK, DECODED, SCALE_BIAS, SCALE_NAN
from refimpl.numerics import Array

SMALLEST, LARGEST = 0.5, 6.0  # of the numbers that a code stands for, 0 aside


def mxfp4_decode(values: Values, *, front: tuple[int, ...], blocks: int, reach: str = "middle") -> Inputs:
    """blocks [*front, N, 16]; every byte of 16 different ones differs in its halves.

    reach: scales in the middle of the range, at its lowest or highest end as far as results are normal numbers of the
    tested format, everywhere in it, or one of them not a number.
    """
    assert values.format is not None
    limits = ml_dtypes.finfo(values.format)
    low = max(0, math.ceil(math.log2(float(limits.smallest_normal) / SMALLEST)) + SCALE_BIAS)
    high = min(SCALE_NAN - 1, math.floor(math.log2(float(limits.max) / LARGEST)) + SCALE_BIAS)
    ranges = {"middle": (120, 132), "lowest": (low, low + 2), "highest": (high - 2, high), "whole": (low, high)}
    first, last = ranges.get(reach, ranges["middle"])
    shape = (*front, blocks)
    scales = values.integers(first, last + 1, shape).astype(np.uint8)
    scales.flat[0], scales.flat[-1] = first, last
    if reach == "nan":
        scales.flat[blocks // 2] = SCALE_NAN
    halves = np.argsort(values.random((*shape, 16)), axis=-1)
    codes = np.stack([halves, np.roll(halves, 1, axis=-1)], axis=-1).reshape(*shape, BLOCK)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    return Inputs({"blocks": packed, "scales": scales}, {"dtype": values.format})


def fp8_block_decode(
    values: Values,
    *,
    front: tuple[int, ...],
    rows: int,
    columns: int,
    block_rows: int,
    block_columns: int,
    format: str = "e4m3",
    scale: str = "float32",
    codes: str = "finite",
    reach: str = "middle",
) -> Inputs:
    """values [*front, rows, columns] in blocks; every block has a scale of its own.

    codes: "all" for infinite ones and those that are not a number too. reach: as of `mxfp4_decode`; one that is not a number
    is possible in UE8M0 alone.
    """
    stored = FP8_FORMATS[format]
    known = np.arange(256, dtype=np.uint8).view(stored)
    known = known if codes == "all" else known[np.isfinite(known.astype(np.float32))]
    count = math.prod((*front, rows, columns))
    chosen = known[(values.permutation(count) + values.integers(256)) % len(known)].reshape(*front, rows, columns)
    shape = (*front, -(-rows // block_rows), -(-columns // block_columns))
    scales = _scales(values, shape, SCALE_FORMATS[scale], numbers=stored, reach=reach)
    if reach == "nan":
        scales.flat[scales.size // 2] = np.nan
    return Inputs({"values": chosen, "scales": scales}, {"block": (block_rows, block_columns), "dtype": values.format})


def int4_group_decode(
    values: Values, *, front: tuple[int, ...], groups: int, group: int = 32, scale: str = "bfloat16"
) -> Inputs:
    """packed [*front, groups · group / 8]; 16 words or more have every code at every place."""
    words = math.prod((*front, groups)) * group // NIBBLES
    codes = (np.arange(words)[:, None] + values.integers(0, 16, NIBBLES)) % 16
    packed = np.sum(codes << np.arange(0, 4 * NIBBLES, 4), axis=-1).astype(np.uint32).view(np.int32)
    packed = values.permutation(packed).reshape(*front, groups * group // NIBBLES)
    scales = _scales(values, (*front, groups), INT4_SCALE_FORMATS[scale], numbers=np.dtype(ml_dtypes.int4))
    return Inputs({"packed": packed, "scales": scales}, {"group": group, "dtype": values.format})


def _scales(
    values: Values, shape: tuple[int, ...], stored: np.dtype[Any], *, numbers: np.dtype[Any], reach: str = "middle"
) -> Array:
    """Scales whose products with all `numbers` are normal numbers of the tested format, without rounding."""
    assert values.format is not None
    limits, own = ml_dtypes.finfo(values.format), ml_dtypes.finfo(stored)
    if numbers == ml_dtypes.int4:
        bits, smallest, largest = 4, 1.0, 8.0
    else:
        info = ml_dtypes.finfo(numbers)
        bits, smallest, largest = info.nmant + 1, float(info.smallest_subnormal), float(info.max)
    low = max(int(own.minexp), math.ceil(math.log2(float(limits.smallest_normal) / smallest)))
    high = min(int(own.maxexp) - 1, math.floor(math.log2(float(limits.max) / largest)) - 1)
    ranges = {"middle": (-6, 6), "lowest": (low, low + 2), "highest": (high - 2, high), "whole": (low, high)}
    first, last = ranges.get(reach, ranges["middle"])
    exponents = values.integers(first, last + 1, shape)
    exponents.flat[0], exponents.flat[-1] = first, last
    free = min(int(own.nmant), int(limits.nmant) + 1 - bits - 1)
    significands = 1 + values.integers(0, 2**free, shape) / 2**free
    return np.ldexp(significands, exponents).astype(stored)


def _matrix(front: tuple[int, ...], rows: int, columns: int, block_rows: int, block_columns: int) -> dict[str, Any]:
    return {"front": front, "rows": rows, "columns": columns, "block_rows": block_rows, "block_columns": block_columns}


FAMILIES = (
    Family(
        function="mxfp4_decode",
        build=mxfp4_decode,
        axes=("",),
        dtypes=("float64", "float32", "bfloat16"),
        exact=True,
        edges=(
            edge("all_codes", "any", "n3", "R1", front=(2, 5), blocks=3),
            edge("one_block", "any", "n1", "R1", front=(), blocks=1),
            edge("lowest_scales", "any", "n4", front=(3,), blocks=4, reach="lowest"),
            edge("highest_scales", "any", "n4", front=(3,), blocks=4, reach="highest"),
            edge("all_scales", "any", "n13", front=(20,), blocks=13, reach="whole"),
            edge("not_a_number", "any", "n5", "R2", front=(2,), blocks=5, reach="nan"),
        ),
    ),
    Family(
        function="fp8_block_decode",
        build=fp8_block_decode,
        axes=("",),
        dtypes=DECODED,
        exact=True,
        stored=True,
        edges=(
            edge("all_codes", "any", "o16i16", "R1", "R5", **_matrix((), 16, 16, 16, 16), codes="all"),
            edge("all_codes_e5m2", "any", "o16i16", "R1", "R5", **_matrix((), 16, 16, 16, 16), format="e5m2", codes="all"),
            edge("ragged", "any", "o10i9", "R2", **_matrix((), 10, 9, 4, 8)),
            edge("block_of_the_releases", "any", "o130i131", "R2", **_matrix((), 130, 131, 128, 128)),
            edge("block_beyond_the_matrix", "any", "o3i5", "R2", **_matrix((), 3, 5, 4, 8)),
            edge("stack", "any", "e3o5i6", "R3", **_matrix((3,), 5, 6, 2, 4)),
            edge("scales_ue8m0", "any", "o12i10", "R4", **_matrix((), 12, 10, 2, 2), scale="ue8m0"),
            edge("scales_bfloat16", "any", "o12i10", **_matrix((2,), 12, 10, 5, 3), scale="bfloat16"),
            edge("lowest_scales", "any", "o12i10", **_matrix((), 12, 10, 2, 2), reach="lowest"),
            edge("highest_scales", "any", "o12i10", **_matrix((), 12, 10, 2, 2), scale="ue8m0", reach="highest"),
            edge("all_scales", "any", "o40i30", "R4", **_matrix((), 40, 30, 2, 2), scale="ue8m0", reach="whole"),
            edge("not_a_number", "any", "o9i10", "R4", **_matrix((), 9, 10, 2, 4), scale="ue8m0", reach="nan"),
        ),
    ),
    Family(
        function="int4_group_decode",
        build=int4_group_decode,
        axes=("",),
        dtypes=DECODED,
        exact=True,
        stored=True,
        edges=(
            edge("all_codes", "any", "e3o2n3", "R1", "R2", front=(3, 2), groups=3),
            edge("one_group", "any", "n1", "R1", front=(), groups=1),
            edge("groups", "any", "o7n5", "R3", front=(7,), groups=5),
            edge("groups_of_8", "any", "o3n6", "R3", front=(3,), groups=6, group=8),
            edge("scales_float16", "any", "o4n3", front=(4,), groups=3, scale="float16"),
            edge("scales_float32", "any", "o4n3", front=(4,), groups=3, scale="float32"),
        ),
    ),
)
