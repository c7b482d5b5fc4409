"""What every block has: parameters, state, and a wiring in terms of ops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from refimpl.numerics import FORMATS, float_format
from refimpl.ops import Ops

Weights = Mapping[str, Any]
State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StateEntry:
    """One tensor of a layer's cache: `shape` a token where it grows with the length, `shape` in all where it does not.

    `window` bounds how many tokens are ever read; None means all. `dtype` is the narrowest format in which it may be kept,
    whatever that of the cache; None: none.
    """

    shape: tuple[int, ...]
    grows: bool = True
    window: int | None = None
    dtype: Literal["float32"] | None = None

    def elements(self, length: int) -> int:
        """How many numbers one sequence of `length` tokens needs."""
        tokens = (min(length, self.window) if self.window else length) if self.grows else 1
        count = tokens
        for size in self.shape:
            count *= size
        return count

    def nbytes(self, length: int, cache_dtype: str) -> int:
        """How many bytes those are in a cache of `cache_dtype`."""
        itemsize = float_format(cache_dtype, among=tuple(FORMATS)).itemsize
        return self.elements(length) * max(itemsize, FORMATS[self.dtype].itemsize if self.dtype else 0)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What blocks may look at beside the hidden state; opaque values of the interpreter.

    q_order [B, T] and k_order [B, S]: the places of new tokens and of cache + new tokens among the real ones (-1: padding).
    past_order: the first S - T columns of k_order, None without a cache.
    rotations: for each `Rope` of the model its (cos, sin), each [B, T, P/2]. temperatures: for each `Temperature` its [B, T].
    ring: whether layers with a window keep a ring (`layers.cache`) instead of all tokens.
    """

    q_order: Any
    k_order: Any
    rotations: Mapping[Any, tuple[Any, Any]]
    past_order: Any = None
    temperatures: Mapping[Any, Any] = field(default_factory=dict)
    ring: bool = False


class Block(ABC):
    """A part of a layer with parameters. Subclasses are frozen dataclasses: plain data, no arrays."""

    @abstractmethod
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Names (within the block) and shapes of the parameters, in the layout of the layer functions."""

    def buffers(self) -> frozenset[str]:
        """Those of the parameters that are not trained by gradients and that no published count includes."""
        return frozenset()

    def num_parameters(self) -> int:
        """How many numbers the block is made of, buffers left out."""
        return sum(prod(shape) for name, shape in self.parameters().items() if name not in self.buffers())

    def num_active_parameters(self) -> int:
        """How many of them one token uses."""
        return self.num_parameters()

    def flops(self, context: int) -> int:
        """Floating-point operations for one token that sees `context` tokens: 2 a multiply-add of a matrix."""
        return sum(2 * shape[0] * shape[1] for shape in self.parameters().values() if len(shape) == 2)


class TokenMixer(Block):
    """A block through which tokens see each other; it may keep state."""

    @abstractmethod
    def state(self) -> dict[str, StateEntry]:
        """The cache that one layer keeps."""

    @abstractmethod
    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        """Mix x [B, T, D] with the past in `state` (None: no past); return the result and the new state."""


class ChannelMixer(Block):
    """A block that treats every token alone."""

    @abstractmethod
    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        """Map x [B, T, D] to [B, T, D]."""


class Scoped(Mapping[str, Any]):
    """The weights under a prefix, by their names within it."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, name: str) -> Any:
        return self._weights[f"{self._prefix}.{name}"]

    def __iter__(self) -> Any:
        start = f"{self._prefix}."
        return (name.removeprefix(start) for name in self._weights if name.startswith(start))

    def __len__(self) -> int:
        return sum(1 for _ in self)
