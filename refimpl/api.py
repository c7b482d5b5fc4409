"""The front door: releases, blueprints, models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refimpl import releases as release_files
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import open_checkpoint
from refimpl.checkpoint.file_names import KNOWN
from refimpl.checkpoint.json_object import read_object
from refimpl.model import Model, numpy_model
from refimpl.models import from_config
from refimpl.weights import RandomWeights, StoredWeights, stored_blueprint

Source = str | os.PathLike[str] | Mapping[str, Any]


def releases() -> list[str]:
    """The names of the published releases that are described here, e.g. "HuggingFaceTB/SmolLM3-3B"."""
    return release_files.names()


def read_config(source: Source) -> dict[str, Any]:
    """The configuration of a release name, a config.json path, a directory that holds one, or a configuration itself.

    A params.json, Mistral's own format, may stand in its place. ValueError when it is none of these.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"got a {type(source).__name__} but need a release name, a path or a configuration (dict)")
    path = Path(source)
    try:
        if path.is_dir():
            found = [path / names.config for names in KNOWN if (path / names.config).is_file()]
            if not found:
                raise ValueError(f"{path}: no config.json in this directory")
            path = found[0]
        if path.is_file():
            return read_object(path)
    except OSError as error:
        raise ValueError(f"{str(path)[:80]}: not a path that can be read ({error.strerror})") from None
    if isinstance(source, str) and path.suffix != ".json":
        config = release_files.release(source)["config"]
        return dict(config)
    raise ValueError(f"{path}: no such file or directory")


def blueprint(source: Source) -> Blueprint:
    """What a model is, without weights: parameters, cache, FLOPs, wiring.

    source: a release name, a config.json path, a directory that holds one, or a configuration dict.
    """
    return from_config(read_config(source))


def load(path: str | os.PathLike[str], dtype: str = "float64", *, stream: bool = False) -> Model:
    """The model of a checkpoint directory: config.json and safetensors files, or params.json and consolidated ones.

    dtype: "float64" (the oracle) or "float32", in which everything is computed whatever the stored format.
    stream: read each parameter when it is needed and drop it after, instead of holding all of them.
    Tensors are memory-mapped: nothing is read before it is used. CheckpointError (a ValueError) names a missing, surplus
    or mis-shaped tensor, a malformed file or a wrong index.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"got a {type(path).__name__} but need the path of a checkpoint directory")
    checkpoint = open_checkpoint(path)
    plan = stored_blueprint(from_config(checkpoint.config), checkpoint)
    return numpy_model(plan, StoredWeights(plan, checkpoint, dtype, stream=stream), dtype)


def init(source: Source, seed: int = 0, dtype: str = "float32") -> Model:
    """A model with random weights of the right shapes, drawn when they are first used."""
    plan = blueprint(source)
    return numpy_model(plan, RandomWeights(plan, dtype, seed=seed), dtype)
