"""What is exported: a blueprint with its weights as they are stored, and the specification of the same model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.errors import ExportError
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import Checkpoint, open_checkpoint
from refimpl.model import Model, numpy_model
from refimpl.models import from_config
from refimpl.numerics import Array, float_format
from refimpl.weights import check_tensors

Source = str | os.PathLike[str] | Model


class _Cast(Mapping[str, Array]):
    """Each array in `dtype`, cast when it is asked for and not kept."""

    def __init__(self, arrays: Mapping[str, Array], dtype: np.dtype[Any]) -> None:
        self._arrays, self._dtype = arrays, dtype

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name].astype(self._dtype)

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

    def specification(self, dtype: str) -> Model:
        """The model as NumPy computes it in `dtype`, with one layer's weights in memory at a time."""
        return numpy_model(self.blueprint, _Cast(self.arrays, float_format(dtype)), dtype)


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
