"""Models with latent attention as graphs, in both of their forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import golden.configs
import refimpl
from export import ExportError, export_onnx
from refimpl.cli import status
from tests.export.exported_models import RUNTIMES, assert_close, open_session, write_checkpoint
from tests.tiny import smollm3, tokens

CONFIG = golden.configs.CONFIGS["deepseek_v3"]
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v3": CONFIG,
    "queries_without_a_latent": {**CONFIG, "q_lora_rank": None, "attention_bias": False},
    "half_split": {**CONFIG, "rope_interleave": False},
    "one_head": {**CONFIG, "num_attention_heads": 1, "num_key_value_heads": 1},
}
FORMS = ("absorbed", "expanded")
HEADS, LATENT, ROPE, KEY, VALUE = 5, 14, 8, 19, 13
CACHES = {
    "absorbed": {"latent": [LATENT], "k_rope": [ROPE]},
    "expanded": {"key": [HEADS, KEY], "value": [HEADS, VALUE]},
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", CONFIGS)
def test_prefill_pieces_decode_and_padding(tmp_path: Path, config: str, form: Any, runtime: str) -> None:
    specification = write_checkpoint(tmp_path, CONFIGS[config])
    export_onnx(tmp_path, tmp_path / "model.onnx", latent=form)
    session, sequence = open_session(tmp_path / "model.onnx", runtime), tokens(2, 9)
    mask = np.ones_like(sequence)
    mask[1, :3] = 0
    expected, _ = specification(sequence, attention_mask=mask)
    assert_close(session(sequence, attention_mask=mask)[0][mask == 1], expected[mask == 1])
    logits, cache = session(sequence[:, :5], attention_mask=mask[:, :5])
    pieces = [logits]
    for column in range(5, 9):
        logits, cache = session(sequence[:, column : column + 1], cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1)[mask == 1], expected[mask == 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_in_either_form_is_verified(tmp_path: Path, config: str, dtype: str) -> None:
    model = refimpl.init(CONFIGS[config], seed=3, dtype=dtype)
    for each in (model, model.expanded()):
        result = export_onnx(each, tmp_path / "model.onnx", dtype=dtype, verify=True)
        assert result.verification is not None
        assert {check.share <= 1 for check in result.verification.calls} == {True}


@pytest.mark.parametrize("form", FORMS)
def test_caches_have_the_names_and_shapes_of_the_form(tmp_path: Path, form: Any) -> None:
    model = refimpl.init(CONFIG)
    export_onnx(model, tmp_path / "model.onnx", latent=form)
    graph = onnx.load(tmp_path / "model.onnx").graph
    ends = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input}
    ends |= {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.output}
    past, everything = "past_sequence_length", "past_sequence_length + sequence_length"
    for index in range(3):
        for name, (*heads, width) in CACHES[form].items():
            assert ends[f"past_key_values.{index}.{name}"] == ["batch_size", *heads, past, width]
            assert ends[f"present.{index}.{name}"] == ["batch_size", *heads, everything, width]
    kept = {name.split(".")[-1] for name in ends if name.startswith(("past", "present"))}
    assert kept == set(CACHES[form])
    called = {node.op_type.split("_heads_")[0] for node in graph.node}
    assert called & {"latent_attention", "expand_latent"} == {"latent_attention" if form == "absorbed" else "expand_latent"}


def test_both_forms_keep_what_the_specification_keeps(tmp_path: Path) -> None:
    model, sequence = refimpl.init(CONFIG, dtype="float64"), tokens(2, 6)
    for form, specification in (("absorbed", model), ("expanded", model.expanded())):
        export_onnx(specification, tmp_path / "model.onnx", dtype="float64")
        _, cache = open_session(tmp_path / "model.onnx")(sequence)
        for index, state in enumerate(specification(sequence)[1].states):
            assert set(state) == set(CACHES[form])
            for name, array in state.items():
                heads_first = array.swapaxes(1, 2) if array.ndim == 4 else array
                assert_close(cache.past[f"past_key_values.{index}.{name}"], heads_first, "float64")


def test_a_decode_step_expands_no_past(tmp_path: Path) -> None:
    """The expanded form makes the keys and values of the new tokens alone: its cache holds the rest."""
    export_onnx(refimpl.init(CONFIG), tmp_path / "model.onnx", latent="expanded")
    graph = onnx.load(tmp_path / "model.onnx").graph
    expanding = [node for node in graph.node if node.op_type.startswith("expand_latent")]
    assert len(expanding) == 3
    assert not {name for node in expanding for name in node.input if name.startswith("past_key_values")}


@pytest.mark.parametrize("form", FORMS)
def test_the_command_writes_either_form(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, CONFIG)
    output = tmp_path / "model.onnx"
    assert status(["export", str(tmp_path), "-o", str(output), "--latent", form, "--verify"]) == 0
    assert "verified in onnxruntime" in capsys.readouterr().out
    names = {value.name for value in onnx.load(output, load_external_data=False).graph.input}
    assert f"past_key_values.2.{next(iter(CACHES[form]))}" in names


def test_the_command_writes_the_absorbed_form_by_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIG)
    assert status(["export", str(tmp_path), "-o", str(tmp_path / "model.onnx")]) == 0
    names = {value.name for value in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.input}
    assert "past_key_values.0.latent" in names


def test_a_form_that_cannot_be_had_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, smollm3())
    output = tmp_path / "model.onnx"
    assert status(["export", str(tmp_path), "-o", str(output), "--latent", "expanded"]) == 4
    assert capsys.readouterr().err == "refimpl: latent is 'expanded', but smollm3 has no latent attention\n"
    assert not output.exists()
    assert status(["export", str(tmp_path), "-o", str(output), "--latent", "naive"]) == 4
    assert "'naive' is not one of 'absorbed', 'expanded'" in capsys.readouterr().err
    with pytest.raises(ExportError, match=r"^latent is 'naive' but must be 'absorbed' or 'expanded'$"):
        export_onnx(tmp_path, output, latent="naive")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"^latent is 'absorbed' but the model is in the expanded form: [^\n]*$"):
        export_onnx(refimpl.init(CONFIG).expanded(), output, latent="absorbed")
