"""The parameters of a model as values of a graph: the recipes of `refimpl.storage` as nodes on stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from export.banks import Decode, Matrices, RegionBank, Stack, as_stored
from export.encoded import Change, Encoded
from export.errors import ExportError
from export.graph import Body, Graph, Value
from export.initialisers import byte_tensor
from export.lowerings.quantization import fp8_block_decode, int4_group_decode, mxfp4_decode
from export.regions import Separate, region_banks
from refimpl.blocks.moe import MATRICES
from refimpl.quantized_storage import Fp8, Int4, Mxfp4
from refimpl.storage import Joined, Layout, Part, Squeezed, Stacked, Stored, Tensor, Transposed

MATRIX_NAMES = tuple(f"{matrix}.weight" for matrix in MATRICES)


class Parameters(Mapping[str, Any]):
    """Each parameter is made when the wiring first asks for it, each stored tensor once.

    A parameter is a `Value`, or `Encoded`; a matrix of all experts, whose name says so, is a `Matrices`.
    """

    def __init__(self, graph: Graph, layout: Layout, tensors: Mapping[str, TensorProto]) -> None:
        self._graph, self._sources, self._tensors = graph, layout.sources, tensors
        self._values: dict[Stored, Value | Encoded] = {}
        self._bytes: dict[str, Value] = {}
        self._stacks: dict[Stored, Stack] = {}
        self._regions: dict[str, RegionBank] = {}

    def __getitem__(self, name: str) -> Value | Encoded | Matrices:
        prefix, _, rest = name.rpartition("experts.")
        if prefix and rest in MATRIX_NAMES:
            return self._matrices(name, self._sources[name])
        return self._value(self._sources[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def _value(self, source: Stored) -> Value | Encoded:
        if source not in self._values:
            made = self._values[source] = self._made(source)
            if isinstance(made, Value):
                made.stored = True
        return self._values[source]

    def _made(self, source: Stored) -> Value | Encoded:
        match source:
            case Tensor(name):
                return self._graph.initialiser(self._tensors[name])
            case Fp8(Tensor(name) as values, Tensor(scales), block):
                arrays = {"values": self._whole(values), "scales": self._byte_view(scales)}
                return Encoded(name, "fp8_block_decode", arrays, {"block": block})
            case Int4(Tensor(name) as packed, Tensor() as scales, group=group):
                arrays = {"packed": self._whole(packed), "scales": self._whole(scales)}
                return Encoded(name, "int4_group_decode", arrays, {"group": group})
            case Transposed(inner):
                return self._changed(inner, _transposed)
            case Squeezed(source=inner, axes=axes):
                return self._changed(inner, lambda graph, value: graph.Squeeze(value, list(axes)))
            case Part(source=inner, axis=axis, start=start, stop=stop, step=step):
                return self._changed(inner, lambda graph, value: graph.Slice(value, [start], [stop], [axis], [step]))
            case Joined(sources, axis):
                joined: Value = self._graph.Concat(*map(self._whole, sources), axis=axis)
                return joined
        raise ExportError(f"a weight stored as {type(source).__name__} has no lowering")

    def _whole(self, source: Stored) -> Value:
        """What is stored in a format that needs no decoding."""
        value = self._value(source)
        if not isinstance(value, Value):
            raise ExportError(f"a part of a weight stored as {type(source).__name__} has no lowering")
        return value

    def _changed(self, source: Stored, change: Change) -> Value | Encoded:
        value = self._value(source)
        if isinstance(value, Encoded):
            return replace(value, changes=(*value.changes, change))
        return change(self._graph, value)

    def _byte_view(self, name: str) -> Value:
        """A tensor, whose numbers in eight bits are bytes."""
        if name not in self._bytes:
            self._bytes[name] = self._graph.initialiser(byte_tensor(self._tensors[name]))
        return self._bytes[name]

    def _matrices(self, name: str, source: Stored) -> Matrices:
        match source:
            case Transposed(Part(source=inner, axis=-1, start=start, stop=stop, step=step)):
                return Matrices(self._stack(inner), transposed=True, outputs=(start, stop, step))
            case Transposed(inner):
                return Matrices(self._stack(inner), transposed=True)
            case Part(source=inner, axis=-2, start=start, stop=stop, step=step):
                return Matrices(self._stack(inner), outputs=(start, stop, step))
            case Mxfp4(
                blocks=Part(source=Tensor() as blocks, start=start, stop=stop, step=step),
                scales=Part(source=Tensor() as scales),
            ):
                return Matrices(self._stack(Mxfp4(blocks, scales)), outputs=(start, stop, step))
            case Stacked():
                return Matrices(self._region(name))
        return Matrices(self._stack(source))

    def _stack(self, source: Stored) -> Stack:
        if source not in self._stacks:
            self._stacks[source] = self._stack_of(source)
        return self._stacks[source]

    def _stack_of(self, source: Stored) -> Stack:
        match source:
            case Mxfp4() | Fp8() | Int4():
                names, decode = _tensors(source)
                return Stack(tuple(map(self._byte_view, names)), decode)
        return Stack((self._whole(source),))

    def _region(self, name: str) -> RegionBank:
        """The bank of one matrix; those of a layer are made together, for they lie in the same regions."""
        if name not in self._regions:
            prefix = name[: name.rindex("experts.") + len("experts.")]
            names = [prefix + matrix for matrix in MATRIX_NAMES]
            banks = region_banks(self._graph, self._tensors, [_separate(self._sources[each]) for each in names])
            self._regions |= dict(zip(names, banks, strict=True))
        return self._regions[name]


def _transposed(graph: Graph, value: Value) -> Value:
    axes = list(range(len(value.shape)))
    transposed: Value = graph.Transpose(value, perm=[*axes[:-2], axes[-1], axes[-2]])
    return transposed


def _separate(source: Stored) -> Separate:
    if not isinstance(source, Stacked):
        raise ExportError(f"one matrix of the experts is stored as {type(source).__name__} but another as tensors of its own")
    _, decode = _tensors(source.sources[0])
    return Separate([_tensors(each)[0] for each in source.sources], decode)


def _tensors(source: Stored) -> tuple[tuple[str, ...], Decode]:
    """The tensors that make a matrix, and how they do."""
    match source:
        case Tensor(name):
            return (name,), as_stored
        case Mxfp4(Tensor(blocks), Tensor(scales)):
            return (blocks, scales), lambda f, tensors, dtype: mxfp4_decode(f, *tensors, dtype=dtype)
        case Fp8(Tensor(values), Tensor(scales), block, format):
            options: dict[str, Any] = {"block": block, "format": format}
            return (values, scales), lambda f, tensors, dtype: fp8_block_decode(f, *tensors, dtype=dtype, **options)
        case Int4(Tensor(packed), Tensor(scales), group=group):
            return (packed, scales), lambda f, tensors, dtype: int4_group_decode(f, *tensors, group=group, dtype=dtype)
        case Joined(sources, axis) if all(isinstance(each, Tensor) for each in sources):
            names = tuple(each.name for each in sources if isinstance(each, Tensor))
            return names, partial(_joined, axis=axis)
    raise ExportError(f"the matrix of an expert is stored as {type(source).__name__}, which has no lowering")


def _joined(f: Body, tensors: Sequence[Value], dtype: np.dtype[Any], *, axis: int) -> Value:
    joined: Value = f.Concat(*(f.cast(tensor, dtype) for tensor in tensors), axis=axis)
    return joined
