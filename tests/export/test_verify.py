"""Verification: a correct export passes with room to spare, a broken one is an error and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import refimpl
from export import ExportError, export_onnx
from export.lowerings import LOWERINGS
from export.lowerings.attention import attention
from export.lowerings.indexer import key_selection
from export.lowerings.mask import attention_mask
from export.lowerings.norm import rms_norm
from export.lowerings.position import rotary_embedding
from export.source import open_source
from export.verify import verify_export
from golden.configs import CONFIGS
from tests.export.exported_models import write_checkpoint
from tests.tiny import qwen3, smollm3

GPT2 = CONFIGS["gpt2"]
MODELS = {
    "qwen3": qwen3(),
    "qwen3_window": qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=0),
    "smollm3": smollm3(),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("config", MODELS)
def test_correct_exports_pass(tmp_path: Path, config: str, dtype: str, seed: int) -> None:
    model = refimpl.init(MODELS[config], seed=seed, dtype=dtype)
    result = export_onnx(model, tmp_path / "model.onnx", dtype=dtype, verify=True)
    assert result.verification is not None
    assert [check.call for check in result.verification.calls] == [
        "prefill",
        "prefill in pieces",
        "cached decode",
        "a batch padded on the left",
    ]
    assert max(check.share for check in result.verification.calls) < 0.9
    assert json.loads(json.dumps(result.summary()))["verification"]["calls"][0]["call"] == "prefill"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_checkpoints_in_place_pass(tmp_path: Path, dtype: str) -> None:
    write_checkpoint(tmp_path, smollm3(), dtype)
    export_onnx(tmp_path, tmp_path / "model.onnx", verify=True)


@pytest.mark.parametrize("positions", [2, 7, 11])
def test_fewer_positions_than_tokens_are_usually_taken(tmp_path: Path, positions: int) -> None:
    model = refimpl.init({**GPT2, "n_positions": positions, "n_ctx": positions})
    verification = export_onnx(model, tmp_path / "model.onnx", verify=True).verification
    assert verification is not None
    assert max(check.share for check in verification.calls) < 0.9


def other_eps(f: Any, x: Any, weight: Any = None, *, eps: float, **options: Any) -> Any:
    return rms_norm(f, x, weight, eps=10 * eps, **options)


def interleaved(f: Any, x: Any, cos: Any, sin: Any) -> Any:
    return rotary_embedding(f, x, cos, sin, interleaved=True)


def wider_window(f: Any, q_order: Any, k_order: Any, *, window: int | None = None) -> Any:
    return attention_mask(f, q_order, k_order, window=window and window + 1)


def columns_for_places(f: Any, *, attention_mask: Any) -> Any:
    ones = f.Add(f.Mul(attention_mask, 0), 1)
    return f.Sub(f.CumSum(ones, np.asarray(1)), 1)


def other_scale(f: Any, *values: Any, scale: float, **options: Any) -> Any:
    return attention(f, *values, scale=scale * 1.0001, **options)


def no_activation(f: Any, gate: Any, up: Any) -> Any:
    return f.Mul(gate, up)


@pytest.mark.parametrize(
    ("config", "layer", "fault", "call"),
    [
        ("qwen3", "rms_norm", other_eps, "prefill"),
        ("qwen3", "rotary_embedding", interleaved, "prefill"),
        ("qwen3_window", "attention_mask", wider_window, "prefill"),
        ("smollm3", "attention", other_scale, "prefill"),
        ("smollm3", "swiglu", no_activation, "prefill"),
        ("smollm3", "token_order", columns_for_places, "a batch padded on the left"),
    ],
)
def test_a_faulty_layer_fails(tmp_path: Path, config: str, layer: str, fault: Callable[..., Any], call: str) -> None:
    lowerings = {**LOWERINGS, layer: fault}
    with pytest.raises(ExportError, match=rf"model\.onnx: {call} in onnxruntime is off by .* which allows"):
        export_onnx(refimpl.init(MODELS[config]), tmp_path / "model.onnx", verify=True, lowerings=lowerings)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_fails(tmp_path: Path) -> None:
    model, path = refimpl.init(qwen3()), tmp_path / "model.onnx"
    export_onnx(model, path)
    graph = onnx.load(path)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("0.mlp.up_proj.weight"))
    array = numpy_helper.to_array(tensor).copy()
    array[3, 4] += 1e-3
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(graph, path)
    with pytest.raises(ExportError, match="prefill in onnxruntime is off by"):
        verify_export(open_source(model), path, "float32")


def test_not_a_number_fails(tmp_path: Path) -> None:
    def not_a_number(f: Any, gate: Any, up: Any) -> Any:
        return f.Log(f.Sub(gate, 1e9))

    with pytest.raises(ExportError, match="off by nan"):
        export_onnx(
            refimpl.init(qwen3()), tmp_path / "model.onnx", verify=True, lowerings={**LOWERINGS, "swiglu": not_a_number}
        )


def test_a_graph_that_the_runtime_refuses_fails(tmp_path: Path) -> None:
    def unknown_to_the_runtime(f: Any, gate: Any, up: Any) -> Any:
        return f.Mul(f.Swish(gate), up)

    with pytest.raises(ExportError, match="onnxruntime refuses the graph"):
        export_onnx(
            refimpl.init(qwen3(), dtype="float64"),
            tmp_path / "model.onnx",
            dtype="float64",
            opset=28,
            verify=True,
            lowerings={**LOWERINGS, "swiglu": unknown_to_the_runtime},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_fails_when_it_runs_fails(tmp_path: Path) -> None:
    def shapes_that_do_not_fit(f: Any, gate: Any, up: Any) -> Any:
        return f.known(f.Reshape(gate, f.Concat(f.Shape(up), [7], axis=0)), up.shape)

    with pytest.raises(ExportError, match="onnxruntime fails to run the graph"):
        export_onnx(
            refimpl.init(qwen3()),
            tmp_path / "model.onnx",
            verify=True,
            lowerings={**LOWERINGS, "swiglu": shapes_that_do_not_fit},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_fault_beyond_a_long_window_in_decode_alone_fails(tmp_path: Path) -> None:
    """The graph forgets the oldest key of the cache once that holds as many as the window, when a single token comes."""

    def forgetful(f: Any, q_order: Any, k_order: Any, *, window: int | None = None) -> Any:
        visible = attention_mask(f, q_order, k_order, window=window)
        if window is None:
            return visible
        places = f.Sub(f.Unsqueeze(q_order, [2]), f.Unsqueeze(k_order, [1]))
        single = f.Less(f.Shape(q_order, start=1, end=2), np.asarray([2]))
        return f.And(visible, f.Not(f.And(single, f.Equal(places, np.asarray(window - 1)))))

    model = refimpl.init(qwen3(use_sliding_window=True, sliding_window=100, max_window_layers=0))
    export_onnx(model, tmp_path / "sound.onnx", verify=True)
    with pytest.raises(ExportError, match="cached decode in onnxruntime is off by"):
        export_onnx(model, tmp_path / "model.onnx", verify=True, lowerings={**LOWERINGS, "attention_mask": forgetful})


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fewer_keys_are_selected_than_there_are(tmp_path: Path, dtype: str, expanded: bool) -> None:
    model = refimpl.init(CONFIGS["deepseek_v32"], seed=1, dtype=dtype)
    result = export_onnx(model.expanded() if expanded else model, tmp_path / "model.onnx", dtype=dtype, verify=True)
    assert result.verification is not None
    assert max(check.share for check in result.verification.calls) < 0.9


def test_a_wrong_selection_of_keys_is_found(tmp_path: Path) -> None:
    def negated(f: Any, scores: Any, *values: Any, **options: Any) -> Any:
        return key_selection(f, f.Neg(scores), *values, **options)

    model = refimpl.init(CONFIGS["deepseek_v32"], seed=1)
    with pytest.raises(ExportError, match="in onnxruntime is off by"):
        export_onnx(model, tmp_path / "model.onnx", verify=True, lowerings={**LOWERINGS, "key_selection": negated})
