"""The matrices of all experts as a graph holds them, of which a loop fetches one expert's at a time.

A matrix is fetched by an operation whose operands are known at run time only, and cast or decoded afterwards. So nothing
can be folded when a session is made, and no page of an expert that nobody chose is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.graph import Body, Graph, Value
from export.lowerings.quantization import mxfp4_decode

Stand = Callable[[Value], Value]


class Bank(ABC):
    """One matrix of every expert."""

    @abstractmethod
    def values(self) -> Iterator[Value]:
        """The values of the graph that it reads."""

    @abstractmethod
    def fetch(self, f: Body, stand: Stand, expert: Value, dtype: np.dtype[Any]) -> Value:
        """The matrix of `expert`, a scalar, in `dtype`. stand: a value of the graph as `f` knows it."""


@dataclass(frozen=True)
class Matrices:
    """A matrix of all experts as the wiring hands it around.

    bank: where it is fetched from, [in, out] where `transposed`. outputs: which of the outputs are meant (start, stop, step)
    where several matrices lie in one. Equal `key`s have the same bank.
    """

    key: Any
    bank: Bank
    transposed: bool = False
    outputs: tuple[int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class Stack(Bank):
    """A tensor [E, ...] in a float format."""

    tensor: Value

    def values(self) -> Iterator[Value]:
        yield self.tensor

    def fetch(self, f: Body, stand: Stand, expert: Value, dtype: np.dtype[Any]) -> Value:
        return f.cast(f.Gather(stand(self.tensor), expert, axis=0), dtype)


@dataclass(frozen=True, eq=False)
class Mxfp4Stack(Bank):
    """Blocks [E, O, N, 16] and scales [E, O, N]."""

    blocks: Value
    scales: Value

    def values(self) -> Iterator[Value]:
        yield from (self.blocks, self.scales)

    def fetch(self, f: Body, stand: Stand, expert: Value, dtype: np.dtype[Any]) -> Value:
        blocks, scales = (f.Gather(stand(value), expert, axis=0) for value in self.values())
        return mxfp4_decode(f, blocks, scales, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Piece:
    """Matrix `number` of the experts in regions: [rows, columns]."""

    number: int
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class RegionBank(Bank):
    """Matrices that are tensors of their own, or pieces of such, joined along `axis`.

    regions: flat tensors, each over the bytes of a file in which experts lie, in any order and among anything else.
    spans: int64 [E, regions · numbers, 2], where each piece begins and ends in each region; empty where it is in another.
    """

    spans: Value
    regions: tuple[Value, ...]
    pieces: tuple[Piece, ...]
    axis: int

    def values(self) -> Iterator[Value]:
        yield from (self.spans, *self.regions)

    def fetch(self, f: Body, stand: Stand, expert: Value, dtype: np.dtype[Any]) -> Value:
        spans = f.Gather(stand(self.spans), expert, axis=0)
        fetched = [f.cast(self._piece(f, stand, spans, piece), dtype) for piece in self.pieces]
        return fetched[0] if len(fetched) == 1 else f.Concat(*fetched, axis=self.axis)

    def _piece(self, f: Body, stand: Stand, spans: Value, piece: Piece) -> Value:
        parts = []
        for index, region in enumerate(self.regions):
            row = f.Gather(spans, f.constant(np.asarray(piece.number * len(self.regions) + index)), axis=0)
            start, end = (f.Slice(row, [place], [place + 1]) for place in (0, 1))
            parts.append(f.Slice(stand(region), start, end))
        flat = parts[0] if len(parts) == 1 else f.Concat(*parts, axis=0)
        return f.known(f.Reshape(flat, list(piece.shape)), piece.shape)


def region_banks(
    graph: Graph, tensors: Mapping[str, TensorProto], matrices: Sequence[Sequence[Sequence[str]]], axes: Sequence[int]
) -> list[RegionBank]:
    """The banks of some matrices of the same experts, which lie in common regions.

    matrices: for each matrix, for each expert, the names of its pieces in order. axes: along which those are joined.
    ExportError where the tensors differ in format or lie at odd bytes.
    """
    names = [name for matrix in matrices for expert in matrix for name in expert]
    kinds = {tensors[name].data_type for name in names}
    if len(kinds) > 1:
        found = ", ".join(sorted(str(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds))
        raise ExportError(f"the experts of the layer of {names[0]!r} are stored in several formats ({found}) but need one")
    regions, places = _regions(tensors, names)
    values = tuple(graph.initialiser(region) for region in regions)
    numbers = [len(matrix[0]) for matrix in matrices]
    firsts = np.concatenate([[0], np.cumsum(numbers)])
    spans = np.zeros((len(matrices[0]), int(firsts[-1]) * len(regions), 2), np.int64)
    for first, matrix in zip(firsts, matrices, strict=False):
        for expert, pieces in enumerate(matrix):
            for offset, name in enumerate(pieces):
                region, start = places[name]
                spans[expert, (first + offset) * len(regions) + region] = start, start + prod(tensors[name].dims)
    shared = graph.constant(spans, "experts.spans")
    banks = []
    for first, matrix, axis in zip(firsts, matrices, axes, strict=False):
        shapes = [tuple(tensors[name].dims) for name in matrix[0]]
        pieces_ = tuple(Piece(int(first) + offset, (shape[0], shape[1])) for offset, shape in enumerate(shapes))
        banks.append(RegionBank(spans=shared, regions=values, pieces=pieces_, axis=axis))
    return banks


def _regions(tensors: Mapping[str, TensorProto], names: Sequence[str]) -> tuple[list[TensorProto], dict[str, tuple[int, int]]]:
    """Flat tensors over the bytes in which `names` lie, and for each name its region and its first element there."""
    if tensors[names[0]].data_location != TensorProto.EXTERNAL:
        arrays = [numpy_helper.to_array(tensors[name]).reshape(-1) for name in names]
        starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
        whole = numpy_helper.from_array(np.concatenate(arrays), f"{names[0]}.region")
        return [whole], {name: (0, int(start)) for name, start in zip(names, starts, strict=False)}
    entries = {name: {entry.key: entry.value for entry in tensors[name].external_data} for name in names}
    files = list(dict.fromkeys(entry["location"] for entry in entries.values()))
    kind = tensors[names[0]].data_type
    size = helper.tensor_dtype_to_np_dtype(kind).itemsize
    regions, places = [], {}
    for index, file in enumerate(files):
        inside = {name: entry for name, entry in entries.items() if entry["location"] == file}
        base = min(int(entry["offset"]) for entry in inside.values())
        end = max(int(entry["offset"]) + int(entry["length"]) for entry in inside.values())
        for name, entry in inside.items():
            start, odd = divmod(int(entry["offset"]) - base, size)
            if odd:
                raise ExportError(f'tensor {name!r} lies at an odd byte of {file}; copy the weights (weights="copy")')
            places[name] = index, start
        # A region may end in the middle of an element of another tensor.
        length = (end - base) // size
        region = TensorProto(name=f"{next(iter(inside))}.region", data_type=kind, dims=[length])
        region.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", base), ("length", length * size)):
            region.external_data.add(key=key, value=str(value))
        regions.append(region)
    return regions, places
