"""How a parameter is made of the tensors on disk: as stored, transposed, squeezed, a part of a fused one, stacked, joined; or
decoded (`refimpl.quantized_storage`).

A `Layout` says so for every parameter of a model. It is plain data with three readers: `refimpl.weights` evaluates it in NumPy,
`export` turns it into nodes of a graph, and whoever writes a checkpoint runs it backwards. Axes are negative, so that a recipe
holds for a stack of matrices and for one of them alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from refimpl.numerics import Array

STORED_FLOATS = ("F64", "F32", "F16", "BF16")

Shape = tuple[int, ...]
Slices = Mapping[str, tuple[str, ...]]  # a tensor that a checkpoint splits over ranks -> its slices
Read = Callable[[str], Array]


@dataclass(frozen=True)
class Leaf:
    """What a tensor on disk has to be: its shape, and the formats in which it may be stored."""

    shape: Shape
    formats: tuple[str, ...] = STORED_FLOATS


class Stored(ABC):
    """The recipe of one parameter."""

    @abstractmethod
    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        """The tensors on disk that make a parameter of `shape`."""

    @abstractmethod
    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        """The parameter, in its stored format, or in `dtype` where that is none to compute in."""

    @abstractmethod
    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        """Entry `index` of the first axis, without reading the others."""

    @abstractmethod
    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        """Put the parameter into `tensors`, the ones on disk, of which missing ones are made."""

    def split(self, slices: Slices) -> Stored:
        """The recipe in a checkpoint that splits some tensors; the same unless it says that its tensor may be one of them."""
        return self


class View(Stored):
    """A recipe that moves no number: what it describes is a view of one tensor."""

    @abstractmethod
    def view(self, tensors: dict[str, Array], shape: Shape, dtype: np.dtype[Any]) -> Array:
        """The writable view of shape `shape`, its tensor made where it is missing."""

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        self.view(tensors, array.shape, array.dtype)[...] = array


@dataclass(frozen=True)
class Tensor(View):
    """A tensor as it is."""

    name: str

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        return {self.name: Leaf(shape)}

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return tensor(self.name)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return np.asarray(tensor(self.name)[index])

    def view(self, tensors: dict[str, Array], shape: Shape, dtype: np.dtype[Any]) -> Array:
        return tensors.setdefault(self.name, np.zeros(shape, dtype))


@dataclass(frozen=True)
class Transposed(View):
    """The last two axes exchanged: weights that are stored [in, out]."""

    source: View

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        return self.source.leaves(_transposed(shape))

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return self.source.read(tensor, dtype).swapaxes(-1, -2)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return self.source.entry(tensor, dtype, index).swapaxes(-1, -2)

    def view(self, tensors: dict[str, Array], shape: Shape, dtype: np.dtype[Any]) -> Array:
        return self.source.view(tensors, _transposed(shape), dtype).swapaxes(-1, -2)


@dataclass(frozen=True, kw_only=True)
class Squeezed(View):
    """The same numbers without some axes of size 1, which `axes` count (from the end) among those on disk."""

    source: View
    axes: tuple[int, ...]

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        return self.source.leaves(self._stored(shape))

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return np.squeeze(self.source.read(tensor, dtype), self.axes)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return np.asarray(self.read(tensor, dtype)[index])

    def view(self, tensors: dict[str, Array], shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.squeeze(self.source.view(tensors, self._stored(shape), dtype), self.axes)

    def _stored(self, shape: Shape) -> Shape:
        count, sizes = len(shape) + len(self.axes), iter(shape)
        return tuple(1 if axis - count in self.axes else next(sizes) for axis in range(count))


@dataclass(frozen=True, kw_only=True)
class Part(View):
    """Entries start, start + step, ... below stop of one axis of a fused tensor, which has `whole` of them."""

    source: Stored
    axis: int
    start: int
    stop: int
    whole: int
    step: int = 1

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        return self.source.leaves(self._fused(shape))

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return self._of(self.source.read(tensor, dtype))

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return self._of(self.source.entry(tensor, dtype, index))

    def split(self, slices: Slices) -> Stored:
        return replace(self, source=self.source.split(slices))

    def view(self, tensors: dict[str, Array], shape: Shape, dtype: np.dtype[Any]) -> Array:
        if not isinstance(self.source, View):
            raise ValueError(f"a part of a {type(self.source).__name__} cannot be written by itself")
        return self._of(self.source.view(tensors, self._fused(shape), dtype))

    def _of(self, fused: Array) -> Array:
        place: tuple[Any, ...] = (..., slice(self.start, self.stop, self.step), *[slice(None)] * (-1 - self.axis))
        return fused[place]

    def _fused(self, shape: Shape) -> Shape:
        axis = len(shape) + self.axis
        return (*shape[:axis], self.whole, *shape[axis + 1 :])


@dataclass(frozen=True)
class Stacked(Stored):
    """One recipe for each entry of the first axis: experts that are tensors of their own."""

    sources: tuple[Stored, ...]

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        return {name: leaf for source in self.sources for name, leaf in source.leaves(shape[1:]).items()}

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return np.stack([source.read(tensor, dtype) for source in self.sources])

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return self.sources[index].read(tensor, dtype)

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        for source, entry in zip(self.sources, array, strict=True):
            source.write(entry, tensors)

    def split(self, slices: Slices) -> Stored:
        return Stacked(tuple(source.split(slices) for source in self.sources))


@dataclass(frozen=True)
class Joined(Stored):
    """Equal shares of one axis, in order: what tensor-parallel ranks keep in files of their own, or q, k and v of one width."""

    sources: tuple[Stored, ...]
    axis: int

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        axis = len(shape) + self.axis
        if shape[axis] % len(self.sources):
            raise ValueError(f"storage: {len(self.sources)} ranks cannot share {shape[axis]} entries of a weight equally")
        share = (*shape[:axis], shape[axis] // len(self.sources), *shape[axis + 1 :])
        return {name: leaf for source in self.sources for name, leaf in source.leaves(share).items()}

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return np.concatenate([source.read(tensor, dtype) for source in self.sources], axis=self.axis)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return np.concatenate([source.entry(tensor, dtype, index) for source in self.sources], axis=self.axis)

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        for source, share in zip(self.sources, np.split(array, len(self.sources), axis=self.axis), strict=True):
            source.write(share, tensors)


@dataclass(frozen=True)
class Sharded(Stored):
    """A tensor as it is, which a checkpoint may instead split along one axis, over as many ranks as it has."""

    name: str
    axis: int

    def leaves(self, shape: Shape) -> dict[str, Leaf]:
        return Tensor(self.name).leaves(shape)

    def read(self, tensor: Read, dtype: np.dtype[Any]) -> Array:
        return Tensor(self.name).read(tensor, dtype)

    def entry(self, tensor: Read, dtype: np.dtype[Any], index: int) -> Array:
        return Tensor(self.name).entry(tensor, dtype, index)

    def write(self, array: Array, tensors: dict[str, Array]) -> None:
        Tensor(self.name).write(array, tensors)

    def split(self, slices: Slices) -> Stored:
        found = slices.get(self.name)
        return Joined(tuple(map(Tensor, found)), self.axis) if found else Tensor(self.name)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which the checkpoints of a model are stored.

    sources: parameter -> its recipe. ignored: patterns of tensors that are no parameters of the model, such as mask buffers
    or the modules of another modality. copies: tensors that may repeat another (a tied head that is stored as well).
    module_copies: the same for each module for multi-token prediction, which shares the tables of the model.
    """

    sources: Mapping[str, Stored]
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    module_copies: tuple[Mapping[str, str], ...] = ()

    def leaves(self, shapes: Mapping[str, Shape]) -> dict[str, Leaf]:
        """Every tensor on disk that the parameters of these shapes are made of."""
        return {
            name: leaf for parameter, shape in shapes.items() for name, leaf in self.sources[parameter].leaves(shape).items()
        }

    def split(self, slices: Slices) -> Layout:
        """The layout in a checkpoint that splits the tensors of `slices`."""
        return replace(self, sources={name: source.split(slices) for name, source in self.sources.items()})

    def with_modules(self, modules: int, names: Collection[str]) -> Layout:
        """The layout of the parameters `names` alone, those of a model with its first `modules` modules."""
        sources = {name: self.sources[name] for name in names}
        return replace(self, sources=sources, module_copies=self.module_copies[:modules])

    def ignores(self, name: str) -> bool:
        """Whether the tensor `name` is none of the model's."""
        return any(fnmatchcase(name, pattern) for pattern in self.ignored)

    def write(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors on disk that store the parameters `arrays`."""
        tensors: dict[str, Array] = {}
        for parameter, source in self.sources.items():
            source.write(arrays[parameter], tensors)
        return tensors


def _transposed(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])
