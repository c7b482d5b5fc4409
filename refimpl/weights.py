"""Where the numbers of a model come from: read from a checkpoint (held or streamed), or drawn at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from zlib import crc32

import numpy as np

from refimpl.blueprint import Blueprint
from refimpl.checkpoint import Checkpoint, CheckpointError
from refimpl.numerics import COMPUTE_FORMATS, Array, float_format

STORED_FLOATS = ("F64", "F32", "F16", "BF16")


class StoredWeights(Mapping[str, Array]):
    """The parameters of a blueprint, read from a checkpoint when asked for and cast to the computing dtype.

    Held after the first reading; with `stream` nothing is held, so that no more than the parameters in use are in memory.
    """

    def __init__(self, blueprint: Blueprint, checkpoint: Checkpoint, dtype: str, *, stream: bool) -> None:
        self._names = blueprint.names
        self._checkpoint = checkpoint
        self._dtype = float_format(dtype, among=COMPUTE_FORMATS)
        self._held: dict[str, Array] | None = None if stream else {}
        check_tensors(blueprint, checkpoint)

    def __getitem__(self, name: str) -> Array:
        if self._held is None:
            return self._read(name)
        if name not in self._held:
            self._held[name] = self._read(name)
        return self._held[name]

    def _read(self, name: str) -> Array:
        return self._checkpoint.read(self._names[name]).astype(self._dtype, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
        if len(shape) > 1:
            noise /= np.sqrt(np.float32(shape[-1]))
        else:
            noise = noise / np.float32(4) + (1 if name.endswith("weight") else 0)
        return noise.astype(self._dtype, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def check_tensors(blueprint: Blueprint, checkpoint: Checkpoint) -> None:
    """CheckpointError unless the checkpoint holds every tensor of the blueprint in its shape, and no other."""
    shapes = {blueprint.names[name]: shape for name, shape in blueprint.parameters().items()}
    missing = [name for name in shapes if name not in checkpoint.tensors]
    if missing:
        raise CheckpointError(f"{checkpoint.directory}: {_listed('tensor', missing)} missing")
    for name, shape in shapes.items():
        stored = checkpoint.tensors[name]
        if stored.shape != shape:
            raise CheckpointError(
                f"{checkpoint.directory}: tensor {name!r} has shape {stored.shape} but the configuration makes it {shape}"
            )
        if stored.dtype not in STORED_FLOATS:
            raise CheckpointError(
                f"{checkpoint.directory}: tensor {name!r} is stored as {stored.dtype}, "
                f"but {blueprint.architecture!r} is read from {', '.join(STORED_FLOATS)}"
            )
    surplus = [name for name in checkpoint.tensors if name not in shapes]
    if blueprint.head.tied and "lm_head.weight" in surplus:
        _check_duplicate(checkpoint, "lm_head.weight", blueprint.names["embedding.weight"])
        surplus.remove("lm_head.weight")
    if surplus:
        raise CheckpointError(f"{checkpoint.directory}: {_listed('tensor', surplus)} not part of {blueprint.architecture!r}")


def _check_duplicate(checkpoint: Checkpoint, copy: str, original: str) -> None:
    """Some releases store a tied head a second time: harmless while it is the same."""
    infos = [checkpoint.tensors[name] for name in (copy, original)]
    same_form = infos[0].shape == infos[1].shape and infos[0].dtype == infos[1].dtype
    if not (same_form and np.array_equal(_bits(checkpoint, copy), _bits(checkpoint, original))):
        raise CheckpointError(
            f"{checkpoint.directory}: the configuration ties the head to the embedding, but {copy!r} differs from {original!r}"
        )


def _bits(checkpoint: Checkpoint, name: str) -> Array:
    array = checkpoint.read(name)
    return array.reshape(prod(array.shape)).view(np.uint8)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{noun} {shown} is" if len(names) == 1 else f"{len(names)} {noun}s are ({shown}{', ...' if len(names) > 3 else ''})"
