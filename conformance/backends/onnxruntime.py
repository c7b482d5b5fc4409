"""onnxruntime as a backend: every layer exported to ONNX and run, and whole checkpoints through their exported graphs.

`onnxruntime` runs on the CPU, `onnxruntime:cuda` on a CUDA device. What is tested is both the exporter and the runtime: a
failure here and not in `onnx-reference` points at the runtime.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import ml_dtypes
import numpy as np

from conformance.threads import threads
from export.engine import checkpoint_session
from export.errors import ExportError
from export.layers import LayerRunner
from export.runtimes import CPU, CUDA, Run, onnxruntime_run
from export.session import Session
from refimpl.layers import VOCABULARY
from refimpl.numerics import Array

# Layers whose arrays are in formats of storage.
DECODERS = ("mxfp4_decode", "fp8_block_decode", "int4_group_decode")


class ExportedBackend:
    """The functions of the vocabulary, and models, as exported graphs in the runtime that the two loaders open."""

    dtypes = ("float64", "float32", "float16")

    def __init__(self, name: str, package: str, load_model: Callable[..., Run], load_layer: Callable[..., Run]) -> None:
        self.name = name
        self.package = package
        self._load_model = load_model
        self._run_layer = LayerRunner(load_layer)

    @property
    def version(self) -> str:
        """The version of the runtime."""
        return str(importlib.import_module(self.package).__version__)

    def unavailable(self) -> str | None:
        """Why this backend cannot run here, None when it can."""
        return None

    def load(self, checkpoint_dir: str | os.PathLike[str]) -> Session:
        """The model of a checkpoint directory, as a function (tokens, cache, attention_mask) -> (logits, cache)."""
        return checkpoint_session(checkpoint_dir, self._load_model)

    def trace(self, checkpoint_dir: str | os.PathLike[str], tokens: Array) -> dict[str, Array]:
        """The taps of the exported graph on tokens [B, T]."""
        return checkpoint_session(checkpoint_dir, self._load_model, taps=True).trace(tokens)

    def __getattr__(self, layer: str) -> Callable[..., Any]:
        if layer not in VOCABULARY:
            raise AttributeError(layer)

        @wraps(VOCABULARY[layer])
        def run(*values: Any, **options: Any) -> Any:
            computed = () if layer in DECODERS else (*values, *options.values())
            if any(_is_bfloat16(value) for value in computed):
                raise NotImplementedError(
                    f"{self.name} has no kernels for bfloat16: it stores the format and computes in others"
                )
            return self._run_layer(layer, *values, **options)

        return run


class CudaBackend(ExportedBackend):
    """onnxruntime's CUDA kernels."""

    def unavailable(self) -> str | None:
        import onnxruntime

        if CUDA not in onnxruntime.get_available_providers():
            return f"{self.name}: no CUDA device for onnxruntime {self.version}, which is built without {CUDA}"
        try:
            self._run_layer("silu", np.zeros(1, np.float32))
        except ExportError as error:
            return f"{self.name}: no CUDA device that onnxruntime {self.version} can use ({error})"
        return None


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == ml_dtypes.bfloat16


# The graph of a layer is too small for threads, and every session would start its own.
backend = ExportedBackend(
    "onnxruntime",
    "onnxruntime",
    load_model=partial(onnxruntime_run, provider=CPU, threads=threads()),
    load_layer=partial(onnxruntime_run, provider=CPU, threads=1),
)
cuda_backend = CudaBackend(
    "onnxruntime:cuda",
    "onnxruntime",
    load_model=partial(onnxruntime_run, provider=CUDA),
    load_layer=partial(onnxruntime_run, provider=CUDA, threads=1),
)
