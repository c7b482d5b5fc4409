"""The matrices of all experts as a graph holds them, of which a loop fetches one expert's at a time.

A matrix is fetched by an operation whose operands are known at run time only, and cast or decoded afterwards. So nothing
can be folded when a session is made, and no page of an expert that nobody chose is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.graph import Body, Value

Stand = Callable[[Value], Value]
# Makes the matrix of an expert, in a format to compute in, of the tensors that store it.
Decode = Callable[[Body, Sequence[Value], np.dtype[Any]], Value]


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
    where several matrices lie in one. Those of one bank are fetched once.
    """

    bank: Bank
    transposed: bool = False
    outputs: tuple[int, int, int] | None = None


def as_stored(f: Body, tensors: Sequence[Value], dtype: np.dtype[Any]) -> Value:
    """The matrix of a tensor in a float format."""
    (tensor,) = tensors
    return f.cast(tensor, dtype)


@dataclass(frozen=True, eq=False)
class Stack(Bank):
    """Tensors [E, ...]."""

    tensors: tuple[Value, ...]
    decode: Decode = as_stored

    def values(self) -> Iterator[Value]:
        yield from self.tensors

    def fetch(self, f: Body, stand: Stand, expert: Value, dtype: np.dtype[Any]) -> Value:
        return self.decode(f, [f.Gather(stand(tensor), expert, axis=0) for tensor in self.tensors], dtype)


@dataclass(frozen=True, eq=False)
class Piece:
    """A tensor that every expert has: where it lies in each of `regions` say the rows of its expert's spans from `row` on."""

    row: int
    regions: tuple[Value, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RegionBank(Bank):
    """Matrices that are tensors of their own, or are made of several.

    regions: of the pieces; flat tensors, each over the bytes of a file in which experts lie, in any order and among anything
    else. spans: int64 [E, rows, 2], where each piece begins and ends in each region; empty where it is in another.
    """

    spans: Value
    pieces: tuple[Piece, ...]
    decode: Decode

    def values(self) -> Iterator[Value]:
        yield self.spans
        for piece in self.pieces:
            yield from piece.regions

    def fetch(self, f: Body, stand: Stand, expert: Value, dtype: np.dtype[Any]) -> Value:
        spans = f.Gather(stand(self.spans), expert, axis=0)
        return self.decode(f, [_fetched(f, stand, spans, piece) for piece in self.pieces], dtype)


def _fetched(f: Body, stand: Stand, spans: Value, piece: Piece) -> Value:
    parts = []
    for row, region in enumerate(piece.regions, piece.row):
        span = f.Gather(spans, f.constant(np.asarray(row)), axis=0)
        start, end = (f.Slice(span, [place], [place + 1]) for place in (0, 1))
        parts.append(f.Slice(stand(region), start, end))
    flat = parts[0] if len(parts) == 1 else f.Concat(*parts, axis=0)
    return f.known(f.Reshape(flat, list(piece.shape)), piece.shape)
