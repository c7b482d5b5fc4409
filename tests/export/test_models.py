"""Whole models as graphs: every kind of call agrees with the specification, in onnxruntime and in onnx.reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import golden.configs
import refimpl
from export import export_onnx
from refimpl.layers import VOCABULARY
from refimpl.ops import NumpyOps, Wrapper
from tests.export.exported_models import RUNTIMES, YARN, assert_close, open_session, write_checkpoint
from tests.tiny import qwen3, smollm3, tokens

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": qwen3(),
    "qwen3_tied_yarn_bias": qwen3(tie_word_embeddings=True, rope_parameters=YARN, attention_bias=True),
    "qwen3_window": qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "smollm3": smollm3(),
    "smollm3_untied_biases": smollm3(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "smollm3_window": smollm3(use_sliding_window=True, sliding_window=3),
    **{name: config for name, config in golden.configs.CONFIGS.items() if name not in ("qwen3", "smollm3")},
}
STORED = {"float32": 1, "bfloat16": 2, "float16": 3}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[refimpl.Model, Path]:
    directory = tmp_path_factory.mktemp("model")
    specification = write_checkpoint(directory, CONFIGS[request.param])
    export_onnx(directory, directory / "model.onnx")
    return specification, directory / "model.onnx"


@pytest.fixture(params=RUNTIMES)
def pair(request: pytest.FixtureRequest, model: Any) -> tuple[refimpl.Model, Any]:
    return model[0], open_session(model[1], request.param)


def test_prefill(pair: Any) -> None:
    specification, session = pair
    sequence = tokens(2, 11)
    assert_close(session(sequence)[0], specification(sequence)[0])


def test_one_token(pair: Any) -> None:
    specification, session = pair
    assert_close(session(tokens(1, 1))[0], specification(tokens(1, 1))[0])


def test_prefill_in_pieces(pair: Any) -> None:
    specification, session = pair
    sequence = tokens(2, 11)
    cache, pieces = None, []
    for start, stop in ((0, 3), (3, 4), (4, 11)):
        logits, cache = session(sequence[:, start:stop], cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1), specification(sequence)[0])


def test_cached_decode(pair: Any) -> None:
    specification, session = pair
    sequence = tokens(2, 9)
    logits, cache = session(sequence[:, :5])
    expected = specification(sequence)[0]
    for index in range(5, 9):
        logits, cache = session(sequence[:, index : index + 1], cache)
        assert_close(logits[:, 0], expected[:, index])


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_rows_equal_the_rows_alone(pair: Any, side: str) -> None:
    specification, session = pair
    sequence = tokens(2, 9)
    mask = np.ones_like(sequence)
    if side in ("left", "both"):
        mask[1, :3] = 0
    if side in ("right", "both"):
        mask[1, 7:] = 0
    logits, cache = session(sequence, attention_mask=mask)
    real = mask[1].astype(bool)
    assert_close(logits[1][real], specification(sequence[1:, real])[0][0])
    longer = np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1)
    logits, _ = session(tokens(2, 1, seed=3), cache, attention_mask=longer)
    alone = np.concatenate([sequence[1:, real], tokens(2, 1, seed=3)[1:]], axis=1)
    assert_close(logits[1], specification(alone)[0][0, -1:])


@pytest.mark.parametrize("sequence", [np.zeros((2, 0), int), np.zeros((0, 2), int), np.zeros(3, int), np.zeros((1, 2))])
def test_tokens_that_are_none(model: Any, sequence: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^tokens have shape .* but must be integers \[B, T\] with B and T at least 1$"):
        open_session(model[1])(sequence)


def test_cache_is_that_of_the_specification(model: Any) -> None:
    specification, path = model
    sequence = tokens(1, 6)
    _, cache = open_session(path)(sequence)
    _, expected = replace(specification, ring=False)(sequence)
    kept = specification.blueprint.state()
    for index, state in enumerate(expected.states):
        for name, array in state.items():
            heads_first = array.swapaxes(1, 2) if array.ndim == 4 and kept[index][name].grows else array
            assert_close(cache.past[f"past_key_values.{index}.{name}"], heads_first)


def test_graph_passes_the_checker_with_full_shape_inference(model: Any) -> None:
    onnx.checker.check_model(str(model[1]), full_check=True)


def test_inputs_and_outputs_follow_the_ecosystem(model: Any) -> None:
    specification, path = model
    graph = onnx.load(path, load_external_data=False).graph
    states = specification.blueprint.state()
    past = [f"past_key_values.{index}.{name}" for index, state in enumerate(states) for name in state]
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "position_ids", *past]
    assert [value.name for value in graph.output] == [
        "logits",
        *(name.replace("past_key_values", "present") for name in past),
    ]
    shapes = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input}
    assert shapes["attention_mask"] == ["batch_size", "past_sequence_length + sequence_length"]
    for index, state in enumerate(states):
        for name, entry in state.items():
            *heads, width = entry.shape
            grown = ["past_sequence_length"] if entry.grows else []
            assert shapes[f"past_key_values.{index}.{name}"] == ["batch_size", *heads, *grown, width]


class Called(Wrapper):
    """Remembers which layers are called."""

    def __init__(self) -> None:
        super().__init__(NumpyOps())
        self.names: set[str] = set()

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        self.names.add(name)
        return super().call(name, *values, **options)


def test_one_function_a_layer_and_readable_names(model: Any) -> None:
    specification, path = model
    called = Called()
    replace(specification, ring=False).with_ops(called)(tokens(1, 2))
    graph_model = onnx.load(path, load_external_data=False)
    functions = {function.name: function for function in graph_model.functions}
    for layer in called.names & VOCABULARY.keys():
        found = [name for name in functions if name == layer or name.startswith(f"{layer}_")]
        assert found, layer
    norms = [function for name, function in functions.items() if name.startswith(("rms_norm", "layer_norm"))]
    assert all("Options: eps = " in function.doc_string for function in norms)
    assert {node.domain for function in functions.values() for node in function.node} == {""}
    names = [node.name for node in graph_model.graph.node]
    assert len(names) == len(set(names))
    assert {"layers.1.mixer.q_proj", "final_norm"} <= set(names)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", STORED)
def test_stored_formats_and_shards(tmp_path: Path, dtype: str, runtime: str) -> None:
    specification = write_checkpoint(tmp_path, smollm3(), dtype, max_shard_bytes=5000, seed=STORED[dtype])
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    export_onnx(tmp_path, tmp_path / "model.onnx")
    sequence = tokens(2, 8)
    assert_close(open_session(tmp_path / "model.onnx", runtime)(sequence)[0], specification(sequence)[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_float64_graphs_agree_to_the_last_digits(tmp_path: Path, config: str) -> None:
    model = refimpl.init(CONFIGS[config], seed=1, dtype="float64")
    export_onnx(model, tmp_path / "model.onnx", dtype="float64")
    sequence = tokens(2, 8)
    assert_close(open_session(tmp_path / "model.onnx")(sequence)[0], model(sequence)[0], "float64")


def test_taps_are_outputs(tmp_path: Path) -> None:
    model = refimpl.init(qwen3(), dtype="float64")
    result = export_onnx(model, tmp_path / "model.onnx", dtype="float64", taps=True)
    sequence = tokens(1, 5)
    expected = model.trace(sequence)
    past = {f"past_key_values.{index}.{name}": np.zeros((1, 2, 0, 8)) for index in range(3) for name in ("key", "value")}
    feeds = {"input_ids": sequence, "attention_mask": np.ones_like(sequence), "position_ids": np.arange(5)[None]}
    values = RUNTIMES["onnxruntime"](tmp_path / "model.onnx")({**feeds, **past})
    assert set(expected) <= set(result.outputs)
    for name, array in expected.items():
        assert_close(values[name], array, "float64")


@pytest.mark.parametrize("config", ["qwen3", "gpt_oss"])
@pytest.mark.parametrize("opset", [23, 24, 25])
def test_opsets(tmp_path: Path, opset: int, config: str) -> None:
    model = refimpl.init(CONFIGS[config])
    export_onnx(model, tmp_path / "model.onnx", opset=opset, verify=True)
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.domain: entry.version for entry in graph.opset_import} == {"": opset, "refimpl": 1}
