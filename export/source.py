"""What is exported: a blueprint with its weights as they are stored, and the specification of the same model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from export.errors import ExportError
from refimpl.blocks import LatentAttention
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import Checkpoint, open_checkpoint
from refimpl.model import Model, numpy_model
from refimpl.models import from_config
from refimpl.numerics import Array, LazyArray, float_format
from refimpl.quantized_storage import STORED_SHAPES
from refimpl.storage import Layout, Tensor
from refimpl.weights import find_layout, stored_blueprint

Source = str | os.PathLike[str] | Model
LatentForm = Literal["absorbed", "expanded"]
LATENT_FORMS = ("absorbed", "expanded")


class _Cast(Mapping[str, Array]):
    """Each array in `dtype`, read whole and cast when it is asked for and not kept."""

    def __init__(self, arrays: Mapping[str, Array | LazyArray], dtype: np.dtype[Any]) -> None:
        self._arrays, self._dtype = arrays, dtype

    def __getitem__(self, name: str) -> Array:
        array = self._arrays[name]
        if isinstance(array, LazyArray):  # as a streamed model has its experts; a graph holds all of them
            array = np.stack([array[index] for index in range(len(array))])
        return array.astype(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class _StoredParameters(Mapping[str, Array]):
    """The parameters of a checkpoint in the format in which it stores them; quantised ones in float64."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout) -> None:
        self._checkpoint, self._sources = checkpoint, layout.sources

    def __getitem__(self, name: str) -> Array:
        return self._sources[name].read(self._checkpoint.read, np.dtype(np.float64))

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """arrays: parameter -> array. layout: how the parameters are made of the tensors that the graph holds; those of a
    checkpoint, which is None where the weights are not files and the tensors are the parameters."""

    blueprint: Blueprint
    arrays: Mapping[str, Array]
    layout: Layout
    checkpoint: Checkpoint | None

    def tensor_names(self) -> list[str]:
        """The tensors that the graph holds: those of numbers, as it has their shapes."""
        leaves = self.layout.leaves(self.blueprint.parameters())
        return [name for name, leaf in leaves.items() if leaf.formats != STORED_SHAPES]

    def in_form(self, latent: LatentForm) -> Exported:
        """The same with latent attention in one of its forms. ExportError where there is none, or only in the other form."""
        forms = {mixer.absorbed for mixer in self.blueprint.attentions() if isinstance(mixer, LatentAttention)}
        if not forms:
            raise ExportError(f"latent is {latent!r}, but {self.blueprint.architecture} has no latent attention")
        if latent == "absorbed" and False in forms:
            raise ExportError("latent is 'absorbed' but the model is in the expanded form: export the one that it was made of")
        return self if latent == "absorbed" else replace(self, blueprint=self.blueprint.expanded())

    def specification(self, dtype: str) -> Model:
        """The model as NumPy computes it in `dtype`, with one layer's weights in memory at a time."""
        return numpy_model(self.blueprint, _Cast(self.arrays, float_format(dtype)), dtype)


def open_source(source: Source) -> Exported:
    """A checkpoint directory or a model. CheckpointError when the directory is not what it should be."""
    if isinstance(source, Model):
        layout = Layout(sources={name: Tensor(name) for name in source.blueprint.parameters()})
        return Exported(blueprint=source.blueprint, arrays=source.weights, layout=layout, checkpoint=None)
    if not isinstance(source, (str, os.PathLike)):
        raise ExportError(f"got a {type(source).__name__} to export but need a checkpoint directory or a refimpl model")
    checkpoint = open_checkpoint(source)
    blueprint = stored_blueprint(from_config(checkpoint.config), checkpoint)
    layout = find_layout(blueprint, checkpoint)
    return Exported(blueprint=blueprint, arrays=_StoredParameters(checkpoint, layout), layout=layout, checkpoint=checkpoint)
