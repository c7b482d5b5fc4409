"""The backends that run exported graphs, as the conformance suite calls them."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from conformance.backends import onnx_reference
from conformance.backends import onnxruntime as runtime_backends
from refimpl.layers import VOCABULARY
from tests.export.exported_models import assert_close, write_checkpoint
from tests.tiny import qwen3, smollm3, tokens

BACKENDS = {"onnxruntime": runtime_backends.backend, "onnx-reference": onnx_reference.backend}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


def test_identity() -> None:
    assert runtime_backends.backend.name == "onnxruntime"
    assert runtime_backends.backend.version == onnxruntime.__version__
    assert onnx_reference.backend.name == "onnx-reference"
    assert onnx_reference.backend.version == onnx.__version__
    assert runtime_backends.backend.unavailable() is onnx_reference.backend.unavailable() is None


def test_every_layer_with_its_own_signature(backend: Any) -> None:
    for name, function in VOCABULARY.items():
        assert inspect.signature(getattr(backend, name)) == inspect.signature(function)
    assert not hasattr(backend, "convolution")


def test_results_are_arrays_in_the_dtype_of_the_inputs(backend: Any) -> None:
    for dtype in backend.dtypes:
        x = np.linspace(-1, 1, 24).reshape(2, 3, 4).astype(dtype)
        assert backend.rms_norm(x, eps=1e-6).dtype == dtype
    cos, sin = backend.rope_cos_sin(np.zeros((1, 3), np.int64), np.ones(2, np.float32))
    assert cos.shape == sin.shape == (1, 3, 2)
    assert isinstance(backend.rope_frequencies(8, theta=1e4), np.ndarray)


def test_bfloat16_is_declined_with_a_reason(backend: Any) -> None:
    with pytest.raises(NotImplementedError, match="has no kernels for bfloat16"):
        backend.silu(np.ones(3, ml_dtypes.bfloat16))


def test_cuda_says_that_there_is_no_device() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert "no CUDA device" in (runtime_backends.cuda_backend.unavailable() or "")


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float64"])
def test_load_runs_a_checkpoint_and_leaves_nothing(backend: Any, tmp_path: Path, stored: str) -> None:
    specification = write_checkpoint(tmp_path, smollm3(), stored)
    before = sorted(tmp_path.iterdir())
    engine = backend.load(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    sequence = tokens(2, 7)
    mask = np.ones_like(sequence)
    mask[0, :2] = 0
    dtype = "float64" if stored == "float64" else "float32"
    logits, cache = engine(sequence[:, :5], attention_mask=mask[:, :5])
    expected, past = specification(sequence[:, :5], attention_mask=mask[:, :5])
    assert_close(logits[mask[:, :5] == 1], expected[mask[:, :5] == 1], dtype)
    assert_close(engine(sequence[:, 5:], cache)[0], specification(sequence[:, 5:], past)[0], dtype)


def test_load_copies_where_weights_are_links(backend: Any, tmp_path: Path) -> None:
    specification = write_checkpoint(tmp_path / "blobs", qwen3())
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        os.symlink(file, tmp_path / "snapshot" / file.name)
    logits, _ = backend.load(tmp_path / "snapshot")(tokens(1, 5))
    assert_close(logits, specification(tokens(1, 5))[0])
