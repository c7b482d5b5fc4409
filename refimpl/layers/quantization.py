"""Quantised storage in MXFP4, and what the other formats (`refimpl.layers.fp8`, `refimpl.layers.int4`) share with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refimpl.numerics import FORMATS, Array
from refimpl.shapes import check, check_floats

DECODED = ("float64", "float32", "bfloat16")
BLOCK = 32  # numbers that share a scale
SCALE_BIAS, SCALE_NAN = 127, 255
LARGEST_EXPONENT = 2  # of E2M1: its largest number is 1.5 · 2²
# The sign is bit 3 of a code.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4_decode(blocks: Array, scales: Array, *, dtype: npt.DTypeLike = np.float32) -> Array:
    """Numbers stored as MXFP4: 4-bit codes in blocks of 32 that share a power of two.

    byte b of a block holds entry 2b in its low four bits and entry 2b + 1 in its high ones
    value = E2M1[code] · 2^(scale - 127)        E2M1 = 0, .5, 1, 1.5, 2, 3, 4, 6 and the same negated

    Shapes: blocks uint8 [..., N, 16], scales uint8 [..., N]; the result is [..., 32 N] in `dtype`.
    Rules:
      R1  the low four bits come first.
      R2  a scale of 255 is not a number, and neither are the entries of its block.
      R3  code 8 is -0.
    Dtype: T1  exact in float32, float64 and bfloat16 for every scale up to 252; above, values may exceed the format.
    Pitfalls: the high four bits first; a scale's bias of 125 (mxfp4-scale-bias-125) or none; signed codes read as two's
      complement.
    Source: OCP Microscaling Formats (MX) specification 1.0, sections 5.3 and 6.3; gpt-oss release.
    """
    check("mxfp4_decode", blocks=(blocks, "...NQ"), scales=(scales, "...N"))
    _check_bytes("mxfp4_decode", blocks=blocks, scales=scales)
    if blocks.shape[-1] != BLOCK // 2 or blocks.shape[:-1] != scales.shape:
        raise ValueError(f"mxfp4_decode: blocks have shape {blocks.shape} but scales {scales.shape} need {(*scales.shape, 16)}")
    check_decoded("mxfp4_decode", dtype)
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, BLOCK)
    with np.errstate(over="ignore"):
        powers = np.ldexp(np.ones((), dtype), np.arange(256) - SCALE_BIAS).astype(dtype)
    powers[SCALE_NAN] = np.nan
    with np.errstate(over="ignore"):  # beyond the format: T1
        values = E2M1.astype(dtype)[codes] * powers[scales][..., None]
    return values.reshape(*scales.shape[:-1], scales.shape[-1] * BLOCK)


def mxfp4_encode(x: Array) -> tuple[Array, Array]:
    """Numbers as MXFP4: the inverse of `mxfp4_decode` where they are representable, the nearest elsewhere.

    scale = floor(log2(max |x| of the block)) - 2 + 127, kept in 0 .. 254; code = the nearest E2M1 to x / 2^(scale - 127)

    Shapes: x [..., D] with D a multiple of 32; blocks uint8 [..., D/32, 16] and scales uint8 [..., D/32].
    Rules:
      R1  of two nearest codes the one with an even mantissa is taken; beyond 6 the largest.
      R2  a block of zeros has scale 0.
      R3  decoded blocks encode to numbers that decode alike.
    Dtype: T1  exact comparison in the dtype of x.
    Pitfalls: another rule for the scale, e.g. from max / 6 (mxfp4-quant-scale-rule).
    Source: OCP Microscaling Formats (MX) specification 1.0, section 6.3.
    """
    sizes = check("mxfp4_encode", x=(x, "...D"))
    check_floats("mxfp4_encode", x=x)
    if sizes["D"] % BLOCK:
        raise ValueError(f"mxfp4_encode: x has {sizes['D']} entries in its last axis but needs a multiple of {BLOCK}")
    if not np.isfinite(x).all():
        raise ValueError("mxfp4_encode: x has entries that are NaN or infinite but must be finite")
    blocks = x.reshape(*x.shape[:-1], sizes["D"] // BLOCK, BLOCK)
    _, exponents = np.frexp(np.max(np.abs(blocks), axis=-1))
    nonzero = blocks.any(axis=-1)
    powers = np.where(nonzero, np.clip(exponents - 1 - LARGEST_EXPONENT, -SCALE_BIAS, SCALE_NAN - 1 - SCALE_BIAS), -SCALE_BIAS)
    magnitudes = np.ldexp(np.abs(blocks), -powers[..., None])
    codes = nearest_code(magnitudes, E2M1[:8]) + 8 * np.signbit(blocks)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return packed.astype(np.uint8), (powers + SCALE_BIAS).astype(np.uint8)


def nearest_code(magnitudes: Array, numbers: Array) -> Array:
    """Which of the increasing `numbers` is nearest; of two the one of the even code, whose mantissa is even."""
    borders = (numbers[1:] + numbers[:-1]) / 2
    above, reached = (np.searchsorted(borders, magnitudes, side=side) for side in ("left", "right"))
    return np.where(above == reached, above, above + above % 2)


def check_decoded(layer: str, dtype: npt.DTypeLike) -> None:
    """Require a format that numbers are decoded to."""
    if np.dtype(dtype) not in [FORMATS[name] for name in DECODED]:
        raise ValueError(f"{layer}: dtype is {np.dtype(dtype)} but must be one of {', '.join(DECODED)}")


def decoding_format(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The format in which codes are multiplied by scales, before the product is cast to `dtype`."""
    return FORMATS["float64" if np.dtype(dtype) == np.float64 else "float32"]


def _check_bytes(layer: str, **arrays: Array) -> None:
    for name, array in arrays.items():
        if array.dtype != np.uint8:
            raise ValueError(f"{layer}: {name} has dtype {array.dtype} but needs uint8")
