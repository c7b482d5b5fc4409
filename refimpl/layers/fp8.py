"""Quantised storage in FP8: numbers of eight bits in blocks of a matrix that share a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from refimpl.layers.quantization import check_decoded, decoding_format, nearest_code
from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_floats

FP8_FORMATS: dict[str, np.dtype[Any]] = {
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
SCALE_FORMATS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "ue8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
# Of the scales that the encoder makes: the smallest normal number of float32, and the largest power of two of UE8M0.
SMALLEST_EXPONENT, LARGEST_EXPONENT = -126, 127


def fp8_block_decode(
    values: Array, scales: Array, *, block: Sequence[int] = (128, 128), dtype: npt.DTypeLike = np.float32
) -> Array:
    """A matrix stored as FP8: numbers of eight bits, of which every block of rows and columns shares a scale.

    W[o, i] = values[o, i] · scales[o // block[0], i // block[1]]

    Shapes: values float8_e4m3fn or float8_e5m2 [..., O, I], scales float32, bfloat16 or float8_e8m0fnu
      [..., ⌈O / block[0]⌉, ⌈I / block[1]⌉]; the result is [..., O, I] in `dtype`.
    Rules:
      R1  the scale is multiplied, although releases call it `weight_scale_inv`.
      R2  the block size is given, so the last blocks of a matrix may be short.
      R3  each matrix of a stack has blocks of its own.
      R4  a scale in UE8M0 is the power of two 2^(byte - 127), and not a number where the byte is 255.
      R5  E4M3 has no infinity: its codes 127 and 255 are not a number. E5M2 has both, as IEEE formats do.
    Dtype: T1  values and scales are decoded to float32 (to float64 for that dtype), multiplied, and cast to `dtype` last:
      exact in float64.
    Pitfalls: a block size derived from the shapes (fp8-block-size-derived-from-shapes-ceil); blocks that reach over the
      matrices of a stack (fp8-moe-blocks-span-experts); values cast to the format of the scales (fp8-ue8m0-scale-dtype-cast).
    Source: DeepSeek-V3 release, section "Weight Dequantization" of its notes on weights; FP8 Formats for Deep Learning
      (arXiv 2209.05433), table 1; OCP Microscaling Formats (MX) specification 1.0, section 5.4.
    """
    sizes = check("fp8_block_decode", values=(values, "...OI"), scales=(scales, "...MN"))
    _check_block("fp8_block_decode", block)
    _check_format("fp8_block_decode", "values", values, FP8_FORMATS)
    _check_format("fp8_block_decode", "scales", scales, SCALE_FORMATS)
    check_decoded("fp8_block_decode", dtype)
    needed = (*values.shape[:-2], -(-sizes["O"] // block[0]), -(-sizes["I"] // block[1]))
    if scales.shape != needed:
        raise ValueError(
            f"fp8_block_decode: scales have shape {scales.shape} but values {values.shape} in blocks of {block} need {needed}"
        )
    wide = decoding_format(dtype)
    decoded: Array = values.astype(wide)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the format; infinity times 0
        for number, start in enumerate(range(0, sizes["O"], block[0])):  # in place, as matrices may be large
            rows = decoded[..., start : start + block[0], :]
            np.multiply(rows, _spread(scales[..., number : number + 1, :].astype(wide), block, rows), out=rows)
        return decoded.astype(dtype, copy=False)


def fp8_block_encode(
    weight: Array, *, block: Sequence[int] = (128, 128), format: str = "e4m3", scale_format: str = "float32"
) -> tuple[Array, Array]:
    """A matrix as FP8 with block scales, whose largest entry becomes the largest number of the format.

    scale = max |w of the block| / largest, in UE8M0 the next power of two above; value = the nearest number to w / scale

    Shapes: weight [..., O, I]; values [..., O, I] in `format` and scales [..., ⌈O / block[0]⌉, ⌈I / block[1]⌉].
    Rules:
      R1  of two nearest numbers the one with an even mantissa is taken; beyond the largest (448, 57344) the largest.
      R2  a block of zeros has scale 1; other scales are kept between 2^-126 and 2^127.
      R3  the entries beyond the edge of a matrix count for nothing, and each matrix of a stack is encoded by itself.
      R4  what was decoded in float64 encodes to numbers that decode alike.
    Dtype: T1  scales are rounded to their format before they divide, in float64.
    Pitfalls: 0 / 0 in a block of zeros (fp8-absmax-zero-block); blocks that reach over the matrices of a stack
      (fp8-moe-blocks-span-experts).
    Source: DeepSeek-V3 technical report (arXiv 2412.19437), section 3.3.2.
    """
    check("fp8_block_encode", weight=(weight, "...OI"))
    check_floats("fp8_block_encode", weight=weight)
    _check_block("fp8_block_encode", block)
    for name, known, given in (("format", FP8_FORMATS, format), ("scale_format", SCALE_FORMATS, scale_format)):
        if given not in known:
            raise ValueError(f"fp8_block_encode: {name} is {given!r} but must be one of {', '.join(known)}")
    if not np.isfinite(weight).all():
        raise ValueError("fp8_block_encode: weight has entries that are NaN or infinite but must be finite")
    numbers = _numbers(FP8_FORMATS[format])
    scales = _scales(_largest(weight, block), numbers[-1], scale_format)
    quotients = weight / _spread(scales.astype(np.float64), block, weight)
    codes = nearest_code(np.abs(quotients), numbers) + 128 * np.signbit(weight)
    return codes.astype(np.uint8).view(FP8_FORMATS[format]), scales


def _spread(scales: Array, block: Sequence[int], matrix: Array) -> Array:
    """The scale of each entry of `matrix`: entry [o, i] has that of block [o // block[0], i // block[1]]."""
    whole = np.repeat(np.repeat(scales, block[0], axis=-2), block[1], axis=-1)
    return whole[..., : matrix.shape[-2], : matrix.shape[-1]]


def _numbers(dtype: np.dtype[Any]) -> Array:
    """The finite numbers from 0 up; their places are their codes."""
    numbers = np.arange(128, dtype=np.uint8).view(dtype).astype(np.float64)
    return numbers[np.isfinite(numbers)]


def _largest(weight: Array, block: Sequence[int]) -> Array:
    """The largest magnitude of each block, in float64."""
    short = [(0, 0)] * (weight.ndim - 2) + [(0, -size % of) for size, of in zip(weight.shape[-2:], block, strict=True)]
    padded = np.pad(np.abs(weight.astype(np.float64)), short)
    rows, columns = (size // of for size, of in zip(padded.shape[-2:], block, strict=True))
    return np.max(padded.reshape(*weight.shape[:-2], rows, block[0], columns, block[1]), axis=(-3, -1), initial=0.0)


def _scales(largest: Array, number: float, scale_format: str) -> Array:
    """The scales by which the largest entries become `number`."""
    wanted = np.clip(np.where(largest == 0, 1.0, largest / number), 2.0**SMALLEST_EXPONENT, 2.0**LARGEST_EXPONENT)
    if scale_format == "ue8m0":
        fraction, exponent = np.frexp(wanted)
        wanted = np.ldexp(1.0, exponent - (fraction == 0.5))
    return wanted.astype(SCALE_FORMATS[scale_format])


def _check_block(layer: str, block: Sequence[int]) -> None:
    if not isinstance(block, (tuple, list)) or len(block) != 2:
        raise ValueError(f"{layer}: block is {block!r} but needs a pair of rows and columns")
    check_counts(layer, rows=block[0], columns=block[1])


def _check_format(layer: str, name: str, array: Array, known: dict[str, np.dtype[Any]]) -> None:
    if array.dtype not in known.values():
        needed = ", ".join(str(dtype) for dtype in known.values())
        raise ValueError(f"{layer}: {name} has dtype {array.dtype} but needs one of {needed}")
