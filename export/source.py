"""What is exported: a blueprint with its weights as they are stored, and the specification of the same model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from export.errors import ExportError
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import Checkpoint, open_checkpoint
from refimpl.model import Model, numpy_model
from refimpl.models import from_config
from refimpl.numerics import Array, float_format
from refimpl.weights import check_tensors

Source = str | os.PathLike[str] | Model


class Transformed(Mapping[str, Array]):
    """`change(name, array)` of each array, computed when it is asked for and not kept."""

    def __init__(self, arrays: Mapping[str, Array], change: Callable[[str, Array], Array]) -> None:
        self._arrays, self._change = arrays, change

    def __getitem__(self, name: str) -> Array:
        return self._change(name, self._arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class _StoredArrays(Mapping[str, Array]):
    """The parameters of a blueprint in the format in which a checkpoint stores them."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        self._checkpoint, self._names = checkpoint, names

    def __getitem__(self, name: str) -> Array:
        return self._checkpoint.read(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """arrays: parameter name -> array as stored. checkpoint: None where the weights are not files."""

    blueprint: Blueprint
    arrays: Mapping[str, Array]
    checkpoint: Checkpoint | None

    def specification(self, dtype: str, change: Callable[[str, Array], Array] = lambda _, array: array) -> Model:
        """The model as NumPy computes it in `dtype`, one layer's weights in memory at a time.

        change: what to make of each weight, given in `dtype`.
        """
        target = float_format(dtype)
        weights = Transformed(self.arrays, lambda name, array: change(name, array.astype(target)))
        return numpy_model(self.blueprint, weights, dtype)


def open_source(source: Source) -> Exported:
    """A checkpoint directory or a model. CheckpointError when the directory is not what it should be."""
    if isinstance(source, Model):
        return Exported(blueprint=source.blueprint, arrays=source.weights, checkpoint=None)
    if not isinstance(source, (str, os.PathLike)):
        raise ExportError(f"got a {type(source).__name__} to export but need a checkpoint directory or a refimpl model")
    checkpoint = open_checkpoint(source)
    blueprint = from_config(checkpoint.config)
    check_tensors(blueprint, checkpoint)
    return Exported(blueprint=blueprint, arrays=_StoredArrays(checkpoint, blueprint.names), checkpoint=checkpoint)
