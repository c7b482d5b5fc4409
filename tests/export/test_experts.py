"""Routed experts in graphs, however they lie on disk: values, regions and files, shared functions, what cannot be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import refimpl
from export import ExportError, export_onnx
from export.layers import LayerRunner
from golden.configs import CONFIGS
from refimpl.checkpoint import open_checkpoint, save_checkpoint
from refimpl.layers import expert_mixture
from refimpl.model import Model
from refimpl.storage import Layout
from tests.checkpoint.handmade import entry, framed
from tests.export.exported_models import RUNTIMES, assert_close, open_session
from tests.tiny import normal, tokens

GPT_OSS, GROK, LLAMA4, MINIMAX, QWEN3_MOE = (
    CONFIGS[name] for name in ("gpt_oss", "grok", "llama4_text", "minimax_m2", "qwen3_moe")
)
MXFP4 = {**GPT_OSS, "hidden_size": 64, "intermediate_size": 32, "quantization_config": {"quant_method": "mxfp4"}}
RANKS = 2


def over_ranks(layout: Layout, model: Model) -> Layout:
    """The layout of a checkpoint whose experts are split over ranks."""
    names = [name for name in layout.leaves(model.blueprint.parameters()) if ".experts." in name]
    return layout.split({name: tuple(f"{name}@TP-{rank:03d}" for rank in range(RANKS)) for name in names})


# The configuration, which of its layouts, whether experts are split over ranks, and how many matrices of an expert are fetched.
LAYOUTS: dict[str, tuple[dict[str, Any], int, bool, int]] = {
    "one tensor a matrix": (QWEN3_MOE, 0, False, 3),
    "halves of the rows": (QWEN3_MOE, 1, False, 2),
    "halves of the columns": (LLAMA4, 0, False, 2),
    "every other column": (GPT_OSS, 0, False, 2),
    "mxfp4": (MXFP4, 0, False, 2),
    "one tensor a matrix, again": (GROK, 0, False, 3),
    "ranks": (GROK, 0, True, 3),
}


def write(directory: Path, layout: str, *, max_shard_bytes: int | None = None, dtype: Any = ml_dtypes.bfloat16) -> Model:
    """A checkpoint of random weights; returns the specification in float64 of what was stored."""
    config, which, split, _ = LAYOUTS[layout]
    model = refimpl.init(config, seed=3)
    stored = over_ranks(model.blueprint.layouts[which], model) if split else model.blueprint.layouts[which]
    tensors = stored.write({name: model.weights[name].astype(dtype) for name in model.blueprint.parameters()})
    save_checkpoint(directory, config, tensors, max_shard_bytes=max_shard_bytes)
    return refimpl.load(directory, "float64")


def expert_functions(path: Path) -> tuple[list[onnx.FunctionProto], list[str]]:
    """The functions that compute experts, and the name of the one that each layer calls."""
    model = onnx.load(path, load_external_data=False)
    functions = [function for function in model.functions if function.name.startswith("routed_experts")]
    return functions, [node.op_type for node in model.graph.node if node.op_type.startswith("routed_experts")]


def regions(path: Path) -> list[onnx.TensorProto]:
    graph = onnx.load(path, load_external_data=False).graph
    return [tensor for tensor in graph.initializer if tensor.name.endswith(".region")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_place(tmp_path: Path, layout: str) -> None:
    specification = write(tmp_path, layout)
    path = export_onnx(tmp_path, tmp_path / "model.onnx").path
    sequence = tokens(2, 7)
    expected = specification(sequence)[0]
    for runtime in RUNTIMES:
        assert_close(open_session(path, runtime)(sequence)[0], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_copied_in_float64_with_its_taps(tmp_path: Path, layout: str) -> None:
    specification = write(tmp_path, layout)
    path = export_onnx(tmp_path, tmp_path / "model.onnx", weights="copy", dtype="float64", taps=True).path
    sequence = tokens(2, 7)
    feeds = {"input_ids": sequence, "attention_mask": np.ones_like(sequence), "position_ids": np.arange(7)[None].repeat(2, 0)}
    past = {
        f"past_key_values.{index}.{name}": np.zeros((2, layer.mixer.kv_heads, 0, layer.mixer.head_dim))
        for index, layer in enumerate(specification.blueprint.layers)
        for name in ("key", "value")
    }
    values = RUNTIMES["onnxruntime"](path)({**feeds, **past})
    taps = specification.trace(sequence)
    choices = [name for name in taps if name.endswith("mlp.router.indices")]
    assert len(choices) == len(expert_functions(path)[1])
    for name, expected in taps.items():
        if name in choices:
            np.testing.assert_array_equal(values[name], expected)
        else:
            assert_close(values[name], expected, "float64")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_share_one_function_that_fetches_each_matrix_once(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout)
    functions, called = expert_functions(export_onnx(tmp_path, tmp_path / "model.onnx").path)
    assert len(functions) == 1
    assert len(called) > 1
    (body,) = (node.attribute[0].g for node in functions[0].node if node.op_type == "Loop")
    assert sum(node.op_type == "Gemm" for node in body.node) == LAYOUTS[layout][3]


@pytest.mark.parametrize("layout", ["one tensor a matrix", "ranks"])
def test_experts_of_a_layer_in_several_files(tmp_path: Path, layout: str) -> None:
    specification = write(tmp_path, layout, max_shard_bytes=9000)
    checkpoint = open_checkpoint(tmp_path)
    layers = range(len(specification.blueprint.layers))
    experts = {name: info.file for name, info in checkpoint.tensors.items() if ".experts." in name}
    files = [{file for name, file in experts.items() if f"layers.{index}." in name} for index in layers]
    assert max(map(len, files)) > RANKS
    path = export_onnx(tmp_path, tmp_path / "model.onnx", verify=True).path
    assert len(regions(path)) == sum(map(len, files))
    onnx.checker.check_model(str(path), full_check=True)
    sequence = tokens(2, 7)
    for runtime in RUNTIMES:
        assert_close(open_session(path, runtime)(sequence)[0], specification(sequence)[0])


def test_a_graph_in_place_holds_no_matrix(tmp_path: Path) -> None:
    write(tmp_path, "one tensor a matrix")
    path = export_onnx(tmp_path, tmp_path / "model.onnx").path
    held = [tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer if not tensor.external_data]
    assert len(regions(path)) == len(expert_functions(path)[1])
    # Every layer lies alike.
    assert sum("experts.spans" in tensor.name for tensor in held) == 1
    assert not [tensor.name for tensor in held if "weight" in tensor.name]


@pytest.mark.parametrize("weights", ["in-place", "copy"])
def test_experts_of_several_formats(tmp_path: Path, weights: Any) -> None:
    write(tmp_path, "one tensor a matrix", dtype=np.float32)
    checkpoint = open_checkpoint(tmp_path)
    tensors = {name: checkpoint.read(name).copy() for name in checkpoint.tensors}
    name = "model.layers.2.mlp.experts.3.up_proj.weight"
    save_checkpoint(tmp_path, QWEN3_MOE, {**tensors, name: tensors[name].astype(ml_dtypes.bfloat16)})
    before = sorted(tmp_path.iterdir())
    sentence = (
        r"^the experts of the layer of '.*layers\.2\..*' are stored in several formats \(bfloat16, float32\) but need one$"
    )
    with pytest.raises(ExportError, match=sentence):
        export_onnx(tmp_path, tmp_path / "model.onnx", weights=weights)
    assert sorted(tmp_path.iterdir()) == before


def test_an_expert_at_an_odd_byte(tmp_path: Path) -> None:
    model = refimpl.init(MINIMAX, seed=3)
    tensors = model.blueprint.layouts[0].write({name: model.weights[name] for name in model.blueprint.parameters()})
    bias, moved = (f"model.layers.1.block_sparse_moe.{name}" for name in ("e_score_correction_bias", "experts.3.w1.weight"))
    # An odd number of entries of two bytes, and behind it one of the matrices, whose entries have four.
    last = {bias: tensors.pop(bias).astype(ml_dtypes.bfloat16), moved: tensors.pop(moved)}
    save_checkpoint(tmp_path, MINIMAX, tensors)
    (tmp_path / "model.safetensors").write_bytes(packed({**tensors, **last}))
    expected = refimpl.load(tmp_path, "float64")(tokens(2, 7))[0]
    path = export_onnx(tmp_path, tmp_path / "model.onnx").path
    (apart,) = (region for region in regions(path) if region.name == f"{moved}.region")
    where = {entry.key: int(entry.value) for entry in apart.external_data if entry.key != "location"}
    info = open_checkpoint(tmp_path).tensors[moved]
    assert where == {"offset": info.offset, "length": info.nbytes}
    for runtime in RUNTIMES:
        assert_close(open_session(path, runtime)(tokens(2, 7))[0], expected)


def packed(tensors: dict[str, np.ndarray]) -> bytes:
    """A file of tensors without a gap between them."""
    header, data = {}, b""
    for name, array in tensors.items():
        kind = {"float32": "F32", "bfloat16": "BF16"}[str(array.dtype)]
        header[name] = entry(kind, array.shape, len(data), len(data) + array.nbytes)
        data += array.tobytes()
    return framed(header, data)


@pytest.mark.parametrize("layout", ["one tensor a matrix", "every other column", "mxfp4"])
def test_a_streamed_model_is_copied(tmp_path: Path, layout: str) -> None:
    specification = write(tmp_path, layout)
    result = export_onnx(refimpl.load(tmp_path, "float32", stream=True), tmp_path / "model.onnx", verify=True)
    assert result.weights == "copy"
    assert_close(open_session(result.path)(tokens(2, 7))[0], specification(tokens(2, 7))[0])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("scale_input", [False, True])
@pytest.mark.parametrize(
    "weights", [[[0.0, 0.5], [0.0, 0.0], [0.3, 0.6]], [[0.0, 0.0]] * 3, []], ids=["some are 0", "all are 0", "no tokens"]
)
def test_an_expert_of_weight_0_adds_nothing(runtime: str, scale_input: bool, weights: list[list[float]]) -> None:
    E, A, D, F = 5, 2, 4, 7
    indices = np.array([[0, 3], [4, 1], [1, 2]])[: len(weights)]
    gate, up, down = normal(E, F, D), normal(E, F, D, seed=1), normal(E, D, F, seed=2)
    gate[4] = up[0] = np.inf  # both are chosen with weight 0 alone
    biases = normal(E, F, seed=3), normal(E, F, seed=4), normal(E, D, seed=5)
    arrays = [normal(len(weights), D), indices, np.reshape(weights, (-1, A)), gate, up, down, *biases]
    with np.errstate(invalid="ignore"):
        expected = expert_mixture(*arrays, scale_input=scale_input)
    result = LayerRunner(RUNTIMES[runtime])("routed_experts", *arrays, scale_input=scale_input)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-14)
