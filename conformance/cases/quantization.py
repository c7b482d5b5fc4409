"""Quantised storage: all codes in both halves of a byte, scales at both ends of what the format holds. Judged exactly."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from conformance.family import Family, Inputs, Values, edge
from refimpl.layers.quantization import BLOCK, SCALE_BIAS, SCALE_NAN

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
)
