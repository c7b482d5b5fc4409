"""The parameters of a model as values of a graph: the recipes of `refimpl.storage` as nodes on stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import TensorProto

from export.errors import ExportError
from export.graph import Graph, Value
from refimpl.storage import Joined, Layout, Part, Stored, Tensor, Transposed


class Parameters(Mapping[str, Value]):
    """Each parameter is made when the wiring first asks for it, each stored tensor once."""

    def __init__(self, graph: Graph, layout: Layout, tensors: Mapping[str, TensorProto]) -> None:
        self._graph, self._sources, self._tensors = graph, layout.sources, tensors
        self._values: dict[Stored, Value] = {}

    def __getitem__(self, name: str) -> Value:
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
