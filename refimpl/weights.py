"""Where the numbers of a model come from: read from a checkpoint (held or streamed), or drawn at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

import numpy as np

from refimpl.blueprint import Blueprint
from refimpl.checkpoint import Checkpoint, CheckpointError
from refimpl.checkpoint.tensor_parallel import slices_of
from refimpl.numerics import COMPUTE_FORMATS, Array, LazyArray, float_format
from refimpl.storage import Layout, Leaf, Stored

STACK_AXES = 3  # of a stack of matrices, one an expert
COMPARED_ENTRIES = 2**24


class StoredWeights(Mapping[str, Any]):
    """The parameters of a blueprint, read from a checkpoint when asked for and cast to the computing dtype.

    Held after the first reading; with `stream` nothing is held, so that no more than the parameters in use are in memory, and
    a stack of experts is a `LazyArray` of which only the chosen ones are read.
    """

    def __init__(self, blueprint: Blueprint, checkpoint: Checkpoint, dtype: str, *, stream: bool) -> None:
        layout = find_layout(blueprint, checkpoint)
        self._sources = layout.sources
        self._copies = stored_copies(layout, checkpoint)
        self._shapes = blueprint.parameters()
        self._checkpoint = checkpoint
        self._dtype = float_format(dtype, among=COMPUTE_FORMATS)
        self._held: dict[str, Array] | None = None if stream else {}

    def __getitem__(self, name: str) -> Array | LazyArray:
        if name.startswith("multi_token."):
            self._compare_copies()
        if self._held is None:
            shape = self._shapes[name]
            if len(shape) == STACK_AXES:
                return StoredStack(self._sources[name], shape, self._checkpoint, self._dtype)
            return self._read(name)
        if name not in self._held:
            self._held[name] = self._read(name)
        return self._held[name]

    def _compare_copies(self) -> None:
        """A module shares the tables of the model; its copies are read once, by whoever uses a module first."""
        while self._copies:
            copy, original = self._copies.popitem()
            try:
                _check_duplicate(self._checkpoint, copy, original, "a module shares the embedding and the head of the model")
            except CheckpointError:
                self._copies[copy] = original
                raise

    def _read(self, name: str) -> Array:
        array = self._sources[name].read(self._checkpoint.read, self._dtype)
        return np.ascontiguousarray(array.astype(self._dtype, copy=False))

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


class StoredStack(LazyArray):
    """A stacked parameter whose entries are read one by one."""

    def __init__(self, source: Stored, shape: tuple[int, ...], checkpoint: Checkpoint, dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._source, self._checkpoint = source, checkpoint

    def __getitem__(self, index: Any) -> Array:
        entry = self._source.entry(self._checkpoint.read, self.dtype, int(index))
        return np.ascontiguousarray(entry.astype(self.dtype, copy=False))


class RandomWeights(Mapping[str, Array]):
    """Weights of the right shapes, drawn when asked for; the same for the same seed and name, whatever the order.

    Matrices are N(0, 1 / width of the input), so that activations keep their size; gains lie around 1; biases around 0.
    """

    def __init__(self, blueprint: Blueprint, dtype: str, *, seed: int) -> None:
        self._shapes = blueprint.parameters()
        self._dtype = float_format(dtype, among=COMPUTE_FORMATS)
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed is {seed!r} but needs an integer, 0 or more")
        self._seed = seed
        self._held: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._held:
            self._held[name] = self._draw(name)
        return self._held[name]

    def _draw(self, name: str) -> Array:
        shape = self._shapes[name]
        noise: Array = np.random.default_rng([self._seed, crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
        if len(shape) > 1 and not name.endswith("bias"):
            noise /= np.sqrt(np.float32(shape[-1]))
        else:
            noise = noise / np.float32(4) + (1 if name.endswith("weight") else 0)
        return noise.astype(self._dtype, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def stored_blueprint(blueprint: Blueprint, checkpoint: Checkpoint) -> Blueprint:
    """`blueprint` without the modules for multi-token prediction of which `checkpoint` stores nothing, as where it was saved by
    a library that does not read them."""
    shapes = blueprint.parameters()
    for count, prefix in enumerate(blueprint.modules()):
        module = {name: shape for name, shape in shapes.items() if name.startswith(f"{prefix}.")}
        known = {name for layout in blueprint.layouts for name in (*layout.leaves(module), *layout.module_copies[count])}
        if known.isdisjoint(checkpoint.tensors):
            return blueprint.with_modules(count)
    return blueprint


def stored_copies(layout: Layout, checkpoint: Checkpoint) -> dict[str, str]:
    """The tensors of `checkpoint` in which modules repeat tables of the model, and which they repeat."""
    pairs = [pair for copies in layout.module_copies for pair in copies.items()]
    return {copy: original for copy, original in pairs if copy in checkpoint.tensors}


def find_layout(blueprint: Blueprint, checkpoint: Checkpoint) -> Layout:
    """The layout in which `checkpoint` stores the model: no tensor is missing, surplus or of another shape.

    CheckpointError that names what does not fit the layout of which the most tensors are there.
    """
    shapes = blueprint.parameters()
    slices = slices_of(checkpoint.tensors)
    try:
        candidates = [(layout, layout.leaves(shapes)) for layout in (known.split(slices) for known in blueprint.layouts)]
    except ValueError as error:  # so many ranks cannot share a weight
        raise CheckpointError(f"{checkpoint.directory}: {error}") from None
    layout, leaves = max(candidates, key=lambda pair: _fit(checkpoint, pair[1]))
    missing = [name for name in leaves if name not in checkpoint.tensors]
    if missing:
        raise CheckpointError(f"{checkpoint.directory}: {_listed('tensor', missing)} missing")
    for name, leaf in leaves.items():
        _check_tensor(blueprint, checkpoint, name, leaf)
    surplus = [name for name in checkpoint.tensors if name not in leaves and not layout.ignores(name)]
    for copy in layout.copies.keys() & set(surplus):
        _check_duplicate(checkpoint, copy, layout.copies[copy], "the configuration ties the head to the embedding")
        surplus.remove(copy)
    for copy, original in stored_copies(layout, checkpoint).items():
        _check_tensor(blueprint, checkpoint, copy, leaves[original])
        surplus.remove(copy)
    if surplus:
        raise CheckpointError(f"{checkpoint.directory}: {_listed('tensor', surplus)} not part of {blueprint.architecture!r}")
    return layout


def _fit(checkpoint: Checkpoint, leaves: Mapping[str, Leaf]) -> tuple[bool, int]:
    """Whether every tensor of a layout is there, and how many are."""
    there = sum(name in checkpoint.tensors for name in leaves)
    return there == len(leaves), there


def _check_tensor(blueprint: Blueprint, checkpoint: Checkpoint, name: str, leaf: Leaf) -> None:
    stored = checkpoint.tensors[name]
    if stored.shape != leaf.shape:
        raise CheckpointError(
            f"{checkpoint.directory}: tensor {name!r} has shape {stored.shape} but the configuration makes it {leaf.shape}"
        )
    if stored.dtype not in leaf.formats:
        raise CheckpointError(
            f"{checkpoint.directory}: tensor {name!r} is stored as {stored.dtype}, "
            f"but {blueprint.architecture!r} is read from {', '.join(leaf.formats)}"
        )


def _check_duplicate(checkpoint: Checkpoint, copy: str, original: str, reason: str) -> None:
    """Some releases store a table a second time: harmless while it is the same."""
    infos = [checkpoint.tensors[name] for name in (copy, original)]
    same_form = infos[0].shape == infos[1].shape and infos[0].dtype == infos[1].dtype
    if not (same_form and _same_bits(checkpoint.read(copy), checkpoint.read(original))):
        raise CheckpointError(f"{checkpoint.directory}: {reason}, but {copy!r} differs from {original!r}")


def _same_bits(first: Array, second: Array) -> bool:
    """Whether two mapped arrays are equal, compared a block at a time: they may be large."""
    blocks = (slice(start, start + COMPARED_ENTRIES) for start in range(0, first.size, COMPARED_ENTRIES))
    bits = [array.reshape(array.size).view(np.dtype(f"u{array.itemsize}")) for array in (first, second)]
    return all(np.array_equal(bits[0][block], bits[1][block]) for block in blocks)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{noun} {shown} is" if len(names) == 1 else f"{len(names)} {noun}s are ({shown}{', ...' if len(names) > 3 else ''})"
