"""The parameters of a model as values of a graph: the recipes of `refimpl.storage` as nodes on stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx import TensorProto

from export.banks import Matrices, Mxfp4Stack, RegionBank, Stack, region_banks
from export.errors import ExportError
from export.graph import Graph, Value
from refimpl.blocks.moe import MATRICES
from refimpl.storage import Joined, Layout, Mxfp4, Part, Stacked, Stored, Tensor, Transposed

MATRIX_NAMES = tuple(f"{matrix}.weight" for matrix in MATRICES)


class Parameters(Mapping[str, Any]):
    """Each parameter is made when the wiring first asks for it, each stored tensor once.

    A parameter is a `Value`; a matrix of all experts, whose name says so, is a `Matrices`.
    """

    def __init__(self, graph: Graph, layout: Layout, tensors: Mapping[str, TensorProto]) -> None:
        self._graph, self._sources, self._tensors = graph, layout.sources, tensors
        self._values: dict[Stored, Value] = {}
        self._regions: dict[str, RegionBank] = {}

    def __getitem__(self, name: str) -> Value | Matrices:
        prefix, _, rest = name.rpartition("experts.")
        if prefix and rest in MATRIX_NAMES:
            return self._matrices(name, self._sources[name])
        return self._value(self._sources[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def _value(self, source: Stored) -> Value:
        if source not in self._values:
            self._values[source] = self._made(source)
            self._values[source].stored = True
        return self._values[source]

    def _made(self, source: Stored) -> Value:
        graph = self._graph
        match source:
            case Tensor(name):
                return graph.initialiser(self._tensors[name])
            case Transposed(inner):
                value = self._value(inner)
                axes = list(range(len(value.shape)))
                transposed: Value = graph.Transpose(value, perm=[*axes[:-2], axes[-1], axes[-2]])
                return transposed
            case Part(source=inner, axis=axis, start=start, stop=stop, step=step):
                part: Value = graph.Slice(self._value(inner), [start], [stop], [axis], [step])
                return part
            case Joined(sources, axis):
                joined: Value = graph.Concat(*map(self._value, sources), axis=axis)
                return joined
        raise ExportError(f"a weight stored as {type(source).__name__} has no lowering")

    def _matrices(self, name: str, source: Stored) -> Matrices:
        match source:
            case Transposed(Part(source=inner, axis=-1, start=start, stop=stop, step=step)):
                return Matrices(key=inner, bank=self._stack(inner), transposed=True, outputs=(start, stop, step))
            case Transposed(inner):
                return Matrices(key=inner, bank=self._stack(inner), transposed=True)
            case Part(source=inner, axis=-2, start=start, stop=stop, step=step):
                return Matrices(key=inner, bank=self._stack(inner), outputs=(start, stop, step))
            case Mxfp4(
                blocks=Part(source=Tensor() as blocks, start=start, stop=stop, step=step),
                scales=Part(source=Tensor() as scales),
            ):
                whole = Mxfp4(blocks, scales)
                return Matrices(key=whole, bank=self._stack(whole), outputs=(start, stop, step))
            case Stacked():
                return Matrices(key=source, bank=self._region(name))
        return Matrices(key=source, bank=self._stack(source))

    def _stack(self, source: Stored) -> Stack | Mxfp4Stack:
        match source:
            case Mxfp4(blocks, scales):
                return Mxfp4Stack(self._value(blocks), self._value(scales))
        return Stack(self._value(source))

    def _region(self, name: str) -> RegionBank:
        """The bank of one matrix; those of a layer are made together, for they lie in the same regions."""
        if name not in self._regions:
            prefix = name[: name.rindex("experts.") + len("experts.")]
            names = [prefix + matrix for matrix in MATRIX_NAMES]
            experts = [[_pieces(expert) for expert in _experts(self._sources[each])] for each in names]
            matrices = [[tensors for tensors, _ in matrix] for matrix in experts]
            banks = region_banks(self._graph, self._tensors, matrices, [matrix[0][1] for matrix in experts])
            self._regions |= dict(zip(names, banks, strict=True))
        return self._regions[name]


def _experts(source: Stored) -> tuple[Stored, ...]:
    if not isinstance(source, Stacked):
        raise ExportError(f"one matrix of the experts is stored as {type(source).__name__} but another as tensors of its own")
    return source.sources


def _pieces(source: Stored) -> tuple[list[str], int]:
    """The tensors that make a matrix, and the axis along which they are joined."""
    sources, axis = (source.sources, source.axis) if isinstance(source, Joined) else ((source,), 0)
    names = [each.name for each in sources if isinstance(each, Tensor)]
    if len(names) < len(sources):
        raise ExportError(f"the matrix of an expert is stored as {type(source).__name__}, which has no lowering")
    return names, axis
