"""Tiny models as checkpoints and as exported sessions, for the tests of this directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from export.runtimes import onnxruntime_run, reference_run
from export.session import Session
from refimpl.checkpoint import save_checkpoint
from refimpl.model import Model
from refimpl.numerics import FORMATS

RUNTIMES = {"onnxruntime": onnxruntime_run, "onnx.reference": reference_run}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}


def write_checkpoint(
    directory: Path, config: dict[str, Any], dtype: str = "float32", *, max_shard_bytes: int | None = None, seed: int = 0
) -> Model:
    """A checkpoint of random weights stored in `dtype`; returns the specification in float64 of what was stored."""
    model = refimpl.init(config, seed=seed)
    arrays = {name: model.weights[name].astype(FORMATS[dtype]) for name in model.blueprint.parameters()}
    tensors = model.blueprint.layouts[0].write(arrays)
    save_checkpoint(directory, config, tensors, max_shard_bytes=max_shard_bytes)
    return refimpl.load(directory, "float64")


def open_session(path: Path, runtime: str = "onnxruntime") -> Session:
    return Session(path, RUNTIMES[runtime](path))


def assert_close(result: np.ndarray, expected: np.ndarray, dtype: str = "float32") -> None:
    """Equal but for the roundings of a few layers; a wrong wiring is wrong in the first digit."""
    assert result.dtype == FORMATS[dtype]
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=100 * np.finfo(FORMATS[dtype]).eps * np.abs(expected).max())
