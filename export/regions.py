"""Banks of experts that are tensors of their own: flat tensors over the bytes of files, and where in them each expert lies.

So a graph needs no initialiser for each of a hundred thousand tensors, and its functions no input for each expert.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.banks import Decode, Piece, RegionBank
from export.errors import ExportError
from export.graph import Graph, Value
from export.initialisers import as_bytes, point

Places = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Separate:
    """How one matrix of the experts is stored: for each expert the names of its tensors, of which `decode` makes it."""

    experts: Sequence[tuple[str, ...]]
    decode: Decode


class _Range(NamedTuple):
    """The bytes of a tensor in a file."""

    file: str
    offset: int
    length: int


def region_banks(graph: Graph, tensors: Mapping[str, TensorProto], matrices: Sequence[Separate]) -> list[RegionBank]:
    """The banks of some matrices of the same experts, which lie in common regions.

    ExportError where one tensor of all experts is in several formats.
    """
    # By matrix, then by piece: the names of the experts' tensors.
    columns = [list(zip(*matrix.experts, strict=True)) for matrix in matrices]
    kinds = {names: _kind(tensors, names) for matrix in columns for names in matrix}
    regions: dict[int, tuple[Value, ...]] = {}
    places: Places = {}
    for kind in dict.fromkeys(kinds.values()):
        inside = [name for names, its in kinds.items() if its == kind for name in names]
        made, found = _regions(tensors, inside, kind)
        regions[kind] = tuple(map(graph.initialiser, made))
        places |= found
    pieces: list[tuple[Piece, ...]] = []
    row = 0
    for matrix in columns:
        pieces.append(())
        for names in matrix:
            pieces[-1] += (Piece(row, regions[kinds[names]], tuple(tensors[names[0]].dims)),)
            row += len(regions[kinds[names]])
    spans = np.zeros((len(matrices[0].experts), row, 2), np.int64)
    for piece, names in zip((piece for each in pieces for piece in each), kinds, strict=True):
        size = prod(piece.shape)
        for expert, name in enumerate(names):
            region, start = places[name]
            spans[expert, piece.row + region] = start, start + size
    shared = graph.constant(spans, "experts.spans")
    return [RegionBank(shared, its, matrix.decode) for its, matrix in zip(pieces, matrices, strict=True)]


def _kind(tensors: Mapping[str, TensorProto], names: Iterable[str]) -> int:
    """The format in which a region over these tensors is read."""
    kinds = {tensors[name].data_type for name in names}
    if len(kinds) > 1:
        found = ", ".join(sorted(str(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds))
        first = next(iter(names))
        raise ExportError(f"the experts of the layer of {first!r} are stored in several formats ({found}) but need one")
    return as_bytes(kinds.pop())


def _regions(tensors: Mapping[str, TensorProto], names: Sequence[str], kind: int) -> tuple[list[TensorProto], Places]:
    """Flat tensors over the bytes in which `names` lie, and for each name its region and its first element there."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if tensors[names[0]].data_location != TensorProto.EXTERNAL:
        arrays = [numpy_helper.to_array(tensors[name]).reshape(-1).view(dtype) for name in names]
        starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
        whole = numpy_helper.from_array(np.concatenate(arrays), f"{names[0]}.region")
        return [whole], {name: (0, int(start)) for name, start in zip(names, starts, strict=False)}
    # Tensors in one region are whole elements apart.
    groups: dict[tuple[str, int], dict[str, _Range]] = defaultdict(dict)
    for name in names:
        where = _range(tensors[name])
        groups[where.file, where.offset % dtype.itemsize][name] = where
    regions: list[TensorProto] = []
    places: Places = {}
    for index, ((file, _), inside) in enumerate(groups.items()):
        base = min(each.offset for each in inside.values())
        length = max(each.offset + each.length for each in inside.values()) - base
        region = TensorProto(name=f"{next(iter(inside))}.region", data_type=kind, dims=[length // dtype.itemsize])
        point(region, file, base, length)
        regions.append(region)
        places |= {name: (index, (where.offset - base) // dtype.itemsize) for name, where in inside.items()}
    return regions, places


def _range(tensor: TensorProto) -> _Range:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return _Range(entries["location"], int(entries["offset"]), int(entries["length"]))
