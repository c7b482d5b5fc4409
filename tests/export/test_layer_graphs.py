"""Every layer as a graph of its own computes what the specification does, in onnxruntime and in onnx.reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from export import ExportError, layer_model
from export.layers import LayerRunner, split_arguments
from export.lowerings import LOWERINGS
from export.runtimes import onnxruntime_run, reference_run
from refimpl.layers import VOCABULARY
from refimpl.layers.precision import converted, stays_wide
from refimpl.numerics import FORMATS, is_float, low_precision, plain
from tests.export.layer_calls import calls

# Legitimate errors of a few rounded steps, of which a wrong formula is far away: in roundings of the largest output.
ALLOWED_ROUNDINGS = {"float64": 40, "float32": 40, "float16": 12}
RUNTIMES = {"onnxruntime": onnxruntime_run, "onnx.reference": reference_run}
# Their results are in a format of their own.
ANGLES = ("rope_cos_sin", *(name for name in VOCABULARY if name.endswith(("rope_frequencies", "temperature", "_decode"))))

NARROW_RESULTS = {np.dtype(kind) for kind in (np.float16, bool, np.int64)}


def named_calls(dtype: str) -> list[Any]:
    return [pytest.param(*call, id=f"{call[0]}-{call[1]}") for call in calls(dtype)]


def compare(results: Any, expected: Any, dtype: str) -> None:
    results, expected = (value if isinstance(value, tuple) else (value,) for value in (results, expected))
    assert len(results) == len(expected)
    for result, right in zip(results, expected, strict=True):
        assert result.shape == right.shape
        if not is_float(right.dtype):
            assert result.dtype == right.dtype
            np.testing.assert_array_equal(result, right)
            continue
        name = str(result.dtype) if right.dtype != FORMATS[dtype] else dtype
        if np.isinf(right).any():
            np.testing.assert_array_equal(result, right)
            continue
        error = np.abs(result.astype(np.float64) - right.astype(np.float64)).max(initial=0)
        epsilon = np.finfo(FORMATS[name]).eps
        assert error <= ALLOWED_ROUNDINGS[name] * epsilon * np.abs(right).max(initial=0)


def widened(value: Any) -> Any:
    return value.astype(np.float64) if isinstance(value, np.ndarray) and is_float(value.dtype) else value


@pytest.fixture(params=RUNTIMES)
def runner(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return LayerRunner(RUNTIMES[request.param])


@pytest.mark.parametrize(("layer", "label", "values", "options"), named_calls("float64"))
def test_float64(runner: Any, layer: str, label: str, values: list[Any], options: dict[str, Any]) -> None:
    expected = VOCABULARY[layer](*values, **options)
    results = runner(layer, *values, **options)
    compare(results, expected, "float64")
    first = results[0] if isinstance(results, tuple) else results
    assert first.dtype == (expected[0] if isinstance(expected, tuple) else expected).dtype


@pytest.mark.parametrize(("layer", "label", "values", "options"), named_calls("float32"))
def test_float32(runner: Any, layer: str, label: str, values: list[Any], options: dict[str, Any]) -> None:
    wide = {key: widened(value) for key, value in options.items()}
    if layer in ANGLES:  # the error of float32 angles is the problem's, not the exporter's
        wide = options
        expected = VOCABULARY[layer](*values, **options)
    else:
        expected = VOCABULARY[layer](*map(widened, values), **wide)
    results = runner(layer, *values, **options)
    compare(results, expected, "float32")


@pytest.mark.parametrize(
    ("layer", "label", "values", "options"), [call for call in named_calls("float16") if call.values[0] not in ANGLES]
)
def test_float16_rounds_where_releases_round(
    runner: Any, layer: str, label: str, values: list[Any], options: dict[str, Any]
) -> None:
    def narrow(value: Any) -> Any:
        return low_precision(value, np.float16) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

    def wide(value: Any) -> Any:
        return value.astype(np.float32) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

    positional, named = converted(layer, values, options, narrow=narrow, wide=wide)
    expected = plain(VOCABULARY[layer](*positional, **named))
    positional, named = converted(layer, values, options, narrow=lambda value: value, wide=wide)
    results = runner(layer, *positional, **named)
    for place, result in enumerate(results if isinstance(results, tuple) else (results,)):
        assert result.dtype == np.float32 if stays_wide(layer, place) else result.dtype in NARROW_RESULTS
    compare(results, expected, "float16")


def test_every_layer_and_every_option_is_called() -> None:
    used: dict[str, set[str]] = {}
    for layer, _, values, options in calls("float64"):
        arrays, settings = split_arguments(layer, *values, **options)
        used.setdefault(layer, set()).update(arrays, settings)
    assert used.keys() == VOCABULARY.keys() == LOWERINGS.keys()
    untested = {
        (layer, option)
        for layer, function in VOCABULARY.items()
        for option in set(inspect.signature(function).parameters) - used[layer]
    }
    assert untested == {("yarn_rope_frequencies", "beta_fast"), ("yarn_rope_frequencies", "beta_slow")}


@pytest.mark.parametrize(("layer", "label", "values", "options"), named_calls("float32"))
def test_graphs_pass_the_checker(layer: str, label: str, values: list[Any], options: dict[str, Any]) -> None:
    model = layer_model(layer, *split_arguments(layer, *values, **options))
    onnx.checker.check_model(model, full_check=True)
    called = {node.op_type for node in model.graph.node if node.domain == "refimpl"}
    assert called == {function.name for function in model.functions}
    assert any(name.startswith(layer) for name in called)
    assert {node.domain for function in model.functions for node in function.node} == {""}


def test_batch_and_length_are_dynamic() -> None:
    generator = np.random.default_rng(0)
    q, k = generator.standard_normal((2, 3, 4, 8)), generator.standard_normal((2, 5, 2, 8))
    run = onnxruntime_run(layer_model("attention", {"q": q, "k": k, "v": k}, {"scale": 0.5}))
    for batch, queries, keys in ((1, 1, 1), (3, 2, 7)):
        q, k = generator.standard_normal((batch, queries, 4, 8)), generator.standard_normal((batch, keys, 2, 8))
        expected = VOCABULARY["attention"](q, k, k, scale=0.5)
        np.testing.assert_allclose(run({"q": q, "k": k, "v": k})["output"], expected, rtol=0, atol=1e-14)


def test_batch_and_length_of_latents_are_dynamic() -> None:
    generator = np.random.default_rng(0)

    def arrays(batch: int, queries: int, keys: int) -> dict[str, np.ndarray]:
        shapes = {"q": (batch, queries, 3, 7), "latent": (batch, keys, 6), "k_rope": (batch, keys, 2), "weight": (27, 6)}
        return {name: generator.standard_normal(shape) for name, shape in shapes.items()}

    run = onnxruntime_run(layer_model("latent_attention", arrays(2, 3, 5), {"scale": 0.5}))
    for sizes in ((1, 1, 1), (3, 2, 7)):
        given = arrays(*sizes)
        expected = VOCABULARY["latent_attention"](*given.values(), scale=0.5)
        np.testing.assert_allclose(run(given)["output"], expected, rtol=0, atol=1e-14)


def test_no_step_copies_the_latents_of_the_past() -> None:
    """They are read where they lie: no other layout of them, nor anything beside them, is made."""
    shapes = {"q": (2, 1, 3, 7), "latent": (2, 5, 6), "k_rope": (2, 5, 2), "weight": (27, 6)}
    model = layer_model("latent_attention", {name: np.zeros(shape) for name, shape in shapes.items()}, {"scale": 0.5})
    function = next(one for one in model.functions if one.name == "latent_attention")
    readers = {node.op_type for node in function.node if {"latent", "k_rope"} & set(node.input)}
    assert readers == {"MatMul", "Transpose", "Shape"}  # a runtime reads a transposed matrix in place
    transposed = {node.output[0] for node in function.node if node.op_type == "Transpose" and node.input[0] in shapes}
    assert {node.op_type for node in function.node if transposed & {*node.input}} == {"MatMul", "Split"}


def test_tokens_outside_the_table_fail() -> None:
    weight = np.ones((6, 4), np.float32)
    for runtime in RUNTIMES.values():
        run = LayerRunner(runtime)
        for token in (-1, 6):
            with pytest.raises(Exception, match="out of"):
                run("embedding", np.array([[token]]), weight)


def test_unknown_layers_and_calls_that_do_not_fit() -> None:
    with pytest.raises(ExportError, match="'conv' is not a layer"):
        layer_model("conv", {}, {})
    with pytest.raises(ExportError, match="'conv' is not a layer"):
        split_arguments("conv")
    with pytest.raises(ValueError, match="rms_norm: missing a required argument"):
        split_arguments("rms_norm", np.ones(3))
