"""Single operators of ONNX and of onnxruntime as layers: what they get wrong is listed, and nothing else is."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance.backends.onnx_operators import onnxruntime_backend, reference_backend
from conformance.backends.onnxruntime_fused import backend as fused_backend
from refimpl import layers

CI = Path(__file__).parents[2] / ".ci"
XFAILS = {fused_backend.name: CI / "onnxruntime-fused.xfails", reference_backend.name: CI / "onnx-reference-operators.xfails"}
BACKENDS = [onnxruntime_backend, fused_backend, reference_backend]
# The lists are of what these versions do; another one may do better.
VERSIONS = {"onnxruntime": "1.32", "onnx": "1.23"}


def of_the_list(backend):
    package = backend.node.package
    return importlib.metadata.version(package).startswith(VERSIONS[package])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_only_listed_cases_fail(backend):
    xfails = XFAILS.get(backend.name) if of_the_list(backend) else None
    report = conformance.run(backend, level="layer", dtype=backend.dtypes, max_examples=1, xfails_file=xfails)
    if of_the_list(backend):
        assert report.failures() == []
    assert report.counts()["pass"] > 250
    assert report.too_few == ""


@pytest.mark.parametrize(
    "backend", [backend for backend in BACKENDS if backend.name in XFAILS], ids=lambda backend: backend.name
)
def test_the_list_is_of_failures(backend):
    if not of_the_list(backend):
        pytest.skip("the list is of other versions")
    report = conformance.run(backend, k="layer_norm or gelu or cross_entropy or tiny_scores", max_examples=0)
    listed = [line.split("*")[0] for line in XFAILS[backend.name].read_text().splitlines() if line and line[0] != "#"]
    assert {result.layer for result in report.failures()} <= {one.split("/")[0] for one in listed}
    assert report.failures()


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_attention_of_ragged_rows_after_a_past():
    """Rows of a batch with pasts of different lengths, which GroupQueryAttention takes one by one."""
    q, k, v = normal(2, 3, 6, 8), normal(2, 7, 2, 8), normal(2, 7, 2, 5)
    options = {
        "scale": 0.3,
        "sinks": normal(6),
        "window": 3,
        "q_order": np.array([[4, 5, 6], [-1, 3, 4]]),
        "k_order": np.array([[0, 1, 2, 3, 4, 5, 6], [-1, 0, 1, 2, -1, 3, 4]]),
    }
    wide = {name: value.astype(np.float64) if name == "sinks" else value for name, value in options.items()}
    expected = layers.attention(*(array.astype(np.float64) for array in (q, k, v)), **wide)
    got = fused_backend.attention(q, k, v, **options)
    assert not got[1, 0].any()
    assert np.abs(got - expected).max() < 2e-6


def test_gaps_between_keys_are_beyond_grouped_query_attention():
    places = {"q_order": np.array([[2]]), "k_order": np.array([[0, 2]])}
    with pytest.raises(NotImplementedError, match="queries must be the last of keys without gaps"):
        fused_backend.attention(normal(1, 1, 2, 8), normal(1, 2, 2, 8), normal(1, 2, 2, 5), scale=1.0, **places)


@pytest.mark.parametrize("heads", [2, 6], ids=["LinearAttention", "GatedDeltaNet"])
def test_both_operators_of_the_delta_rule_run(heads, monkeypatch):
    kinds = []
    node = fused_backend.node
    monkeypatch.setattr(
        fused_backend, "node", lambda kind, *inputs, **settings: kinds.append(kind) or node(kind, *inputs, **settings)
    )
    q, k, v = normal(1, 4, 2, 3), normal(1, 4, 2, 3) / 3, normal(1, 4, heads, 5)
    g, beta = -np.abs(normal(1, 4, heads)), np.abs(normal(1, 4, heads)) / 4
    y, state = fused_backend.gated_delta_rule(q, k, v, g, beta, scale=0.5)
    wide = [array.astype(np.float64) for array in (q, k, v, g, beta)]
    expected, expected_state = layers.gated_delta_rule(*wide, scale=0.5)
    assert kinds == ["LinearAttention" if heads == 2 else "GatedDeltaNet"]
    assert np.abs(y - expected).max() < 1e-6
    assert np.abs(state - expected_state).max() < 1e-6


def test_types_without_a_kernel_are_unsupported():
    with pytest.raises(NotImplementedError, match=r"^onnxruntime has no kernel of RMSNormalization for bfloat16$"):
        onnxruntime_backend.rms_norm(np.ones((2, 3), "bfloat16"), eps=1e-6)


def test_absent_inputs_at_the_end_are_left_out():
    """A graph with a name for the absent bias of LayerNormalization ends the process of onnxruntime 1.32."""
    x = normal(2, 5)
    assert np.allclose(onnxruntime_backend.layer_norm(x, np.ones(5, np.float32), eps=1e-5).mean(-1), 0, atol=1e-6)
