"""Recipes of parameters that are stored in a few bits with shared scales: decoded when they are read, encoded when written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.layers.fp8 import fp8_block_decode, fp8_block_encode
from refimpl.layers.int4 import NIBBLES, int4_group_decode, int4_group_encode
from refimpl.layers.quantization import BLOCK, mxfp4_decode, mxfp4_encode
from refimpl.numerics import Array
from refimpl.storage import Leaf, Read, Shape, Stored, View

STORED_BYTES = ("U8",)
STORED_WORDS = ("I32",)
STORED_SHAPES = ("I32", "I64")
STORED_FP8 = {"e4m3": ("F8_E4M3",), "e5m2": ("F8_E5M2",)}
FP8_SCALES = ("F32", "BF16", "F8_E8M0")
INT4_SCALES = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class Mxfp4(Stored):
    """Blocks and scales of `mxfp4_decode`, along the last axis; both may be parts of fused tensors."""

    blocks: View
    scales: View

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        if shape[-1] % BLOCK:
            raise ValueError(f"storage: MXFP4 needs rows of a multiple of {BLOCK} entries, but a parameter has shape {shape}")
        scales = (*shape[:-1], shape[-1] // BLOCK)
        return {**_leaves(self.blocks, (*scales, BLOCK // 2), STORED_BYTES), **_leaves(self.scales, scales, STORED_BYTES)}

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return mxfp4_decode(self.blocks.read(tensor, dtype), self.scales.read(tensor, dtype), dtype=dtype)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return mxfp4_decode(self.blocks.entry(tensor, dtype, index), self.scales.entry(tensor, dtype, index), dtype=dtype)

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        blocks, scales = mxfp4_encode(array.astype(np.float64))
        self.blocks.write(blocks, tensors)
        self.scales.write(scales, tensors)


@dataclass(frozen=True)
class Fp8(Stored):
    """A matrix, or a stack of them, as `fp8_block_decode` reads it.

    block: rows and columns that share a scale. format: e4m3 or e5m2. scale_format: the one that scales are written in;
    any is read.
    """

    weight: View
    scales: View
    block: tuple[int, int] = (128, 128)
    format: str = "e4m3"
    scale_format: str = "float32"

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        rows, columns = (-(-size // of) for size, of in zip(shape[-2:], self.block, strict=True))
        return {
            **_leaves(self.weight, shape, STORED_FP8[self.format]),
            **_leaves(self.scales, (*shape[:-2], rows, columns), FP8_SCALES),
        }

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        values, scales = (source.read(tensor, dtype) for source in (self.weight, self.scales))
        return fp8_block_decode(values, scales, block=self.block, dtype=dtype)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        values, scales = (source.entry(tensor, dtype, index) for source in (self.weight, self.scales))
        return fp8_block_decode(values, scales, block=self.block, dtype=dtype)

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        wide = array.astype(np.float64)
        values, scales = fp8_block_encode(wide, block=self.block, format=self.format, scale_format=self.scale_format)
        self.weight.write(values, tensors)
        self.scales.write(scales, tensors)


@dataclass(frozen=True)
class Int4(Stored):
    """A matrix as `int4_group_decode` reads it.

    shape_name: the tensor that repeats its shape, which must be the one that the configuration makes. group: entries of a
    row that share a scale.
    """

    packed: View
    scales: View
    shape_name: str
    group: int = 32

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        if shape[-1] % self.group:
            raise ValueError(
                f"storage: INT4 needs rows of a multiple of {self.group} entries, but a parameter has shape {shape}"
            )
        return {
            **_leaves(self.packed, (*shape[:-1], shape[-1] // NIBBLES), STORED_WORDS),
            **_leaves(self.scales, (*shape[:-1], shape[-1] // self.group), INT4_SCALES),
            self.shape_name: Leaf((len(shape),), STORED_SHAPES),
        }

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        packed, scales = (source.read(tensor, dtype) for source in (self.packed, self.scales))
        self._check_shape(tensor(self.shape_name).tolist(), packed)
        return int4_group_decode(packed, scales, group=self.group, dtype=dtype)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        packed, scales = (source.entry(tensor, dtype, index) for source in (self.packed, self.scales))
        self._check_shape(tensor(self.shape_name).tolist()[1:], packed)
        return int4_group_decode(packed, scales, group=self.group, dtype=dtype)

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        packed, scales = int4_group_encode(array.astype(np.float64), group=self.group)
        self.packed.write(packed, tensors)
        self.scales.write(scales, tensors)
        tensors[self.shape_name] = np.array(array.shape, np.int32)

    def _check_shape(self, found: list[int], packed: Array) -> None:
        needed = [*packed.shape[:-1], packed.shape[-1] * NIBBLES]
        if found != needed:
            raise ValueError(f"storage: {self.shape_name!r} says {found} but its weight has shape {needed}")


def _leaves(source: View, shape: Shape, formats: tuple[str, ...]) -> dict[str, Leaf]:
    """Those of `source` in formats of their own."""
    return {name: Leaf(leaf.shape, formats) for name, leaf in source.leaves(shape).items()}
