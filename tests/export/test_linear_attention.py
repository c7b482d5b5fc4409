"""Linear attention as graphs: the operators of opset 27, and lengths far beyond a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from export import layer_model
from export.layers import LayerRunner, split_arguments
from export.runtimes import onnxruntime_run
from refimpl.layers import VOCABULARY
from tests.export.exported_models import RUNTIMES
from tests.export.layer_calls import Call, G, calls
from tests.export.test_layer_graphs import compare, widened

OPERATORS = {"LinearAttention", "CausalConvWithState"}
RECURRENT = ("causal_conv1d", "linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule", "ssd")
LENGTH = 2048
DECAYS = {"strong": 3.0, "weak": 1e-3}


def recurrent(dtype: str) -> list[Call]:
    return [call for call in calls(dtype) if call[0] in RECURRENT]


def operators(model: onnx.ModelProto) -> set[str]:
    return OPERATORS & {node.op_type for function in model.functions for node in function.node}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("layer", "label", "values", "options"), [pytest.param(*call, id=f"{call[0]}-{call[1]}") for call in recurrent("float32")]
)
def test_the_operators_compute_the_same(
    runtime: str, layer: str, label: str, values: list[Any], options: dict[str, Any]
) -> None:
    runner = LayerRunner(RUNTIMES[runtime], opset=27)
    expected = VOCABULARY[layer](*map(widened, values), **{key: widened(value) for key, value in options.items()})
    compare(runner(layer, *values, **options), expected, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_where_operators_are_used(dtype: str) -> None:
    """From opset 27 on and not in float64, of which ONNX has none; a scale of 0 would be taken for its default."""
    for layer, label, values, options in recurrent(dtype):
        if label.startswith(("few_places", f"{G}_groups", "everything_2")):
            call = split_arguments(layer, *values, **options)
            assert not operators(layer_model(layer, *call, opset=26))
            expected = dtype != "float64" and options.get("scale") != 0
            assert len(operators(layer_model(layer, *call, opset=27))) == expected


@pytest.mark.parametrize("opset", [23, 27])
@pytest.mark.parametrize("strength", DECAYS)
@pytest.mark.parametrize("kind", ["head", "channel"])
def test_no_digits_are_lost_at_length(opset: int, strength: str, kind: str) -> None:
    generator = np.random.default_rng(5)
    q, k = generator.standard_normal((2, 1, LENGTH, 1, 16))
    k[:, 1::2] = k[:, ::2]  # every key twice: what is written is corrected at once
    q, k = (x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True)) for x in (q, k))
    v = generator.standard_normal((1, LENGTH, 3, 5))
    g = -DECAYS[strength] * np.exp(generator.standard_normal((1, LENGTH, 3, 16) if kind == "channel" else (1, LENGTH, 3)))
    beta = 1 - generator.random((1, LENGTH, 3)) / 100
    values = [x.astype(np.float32) for x in (q, k, v, g, beta)]
    results = LayerRunner(onnxruntime_run, opset=opset)("gated_delta_rule", *values, scale=0.25)
    expected = VOCABULARY["gated_delta_rule"](*map(widened, values), scale=0.25)
    for result, right in zip(results, expected, strict=True):
        assert np.sqrt(np.mean((result - right) ** 2) / np.mean(right**2)) < 5e-7
