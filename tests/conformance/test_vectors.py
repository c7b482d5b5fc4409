"""Cases as plain files: what is written, that it is enough to judge by, and that a directory is written whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from safetensors.numpy import load_file

import refimpl
from conformance import find_case
from conformance.vectors import onnx_cases
from conformance.vectors.onnx_cases import onnx_vector
from conformance.vectors.write import write_vectors
from refimpl.cli import status
from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS


def cases_of(root, index):
    for entry in index["cases"]:
        place = root / entry["path"]
        yield place, json.loads((place / "case.json").read_text(encoding="utf-8"))


def test_the_files_of_a_layer_are_enough_to_evaluate_and_to_judge_it(tmp_path):
    index = write_vectors(tmp_path / "v", k="attention/ or rms_norm or rope_cos_sin or top_k_softmax", dtype="float32")
    assert len(index["cases"]) > 40
    for place, case in cases_of(tmp_path / "v", index):
        inputs, expected = load_file(place / "in.safetensors"), load_file(place / "expected.safetensors")
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in inputs.items()}
        result = VOCABULARY[case["function"]](**wide, **{k: v for k, v in case["options"].items() if v is not None})
        results = result if isinstance(result, tuple) else (result,)
        assert [output["name"] for output in case["outputs"]] == list(expected)
        for output, ours in zip(case["outputs"], results, strict=True):
            truth = expected[output["name"]]
            assert list(truth.shape) == output["shape"] == list(ours.shape)
            if output["comparison"] == "exact":
                np.testing.assert_array_equal(ours, truth)
            else:
                assert np.abs(ours - truth).max() <= 1e-12 < output["max_budget"]


@pytest.mark.parametrize("dtype", FORMATS)
def test_budgets_are_those_of_the_judge(tmp_path, dtype):
    index = write_vectors(tmp_path / "v", k="swiglu and not drawn", dtype=dtype)
    for _, case in cases_of(tmp_path / "v", index):
        known = find_case(case["id"])
        budget = known.expected()[0].settled().budget
        assert (case["outputs"][0]["max_budget"], case["outputs"][0]["rms_budget"]) == (budget.maximum, budget.rms)
        assert case["dtype"] == dtype


def test_choices_and_copies_say_how_they_are_compared(tmp_path):
    index = write_vectors(tmp_path / "v", k="top_k_softmax_router or mxfp4_decode or token_order", dtype="float32")
    found = {case["function"]: case for _, case in cases_of(tmp_path / "v", index)}
    router, decoder = found["top_k_softmax_router"], found["mxfp4_decode"]
    assert router["ties"]
    assert not decoder["ties"]
    assert [output["comparison"] for output in router["outputs"]] == ["exact", "budget"]
    assert [output["dtype"] for output in router["outputs"]] == ["I64", "F32"]
    assert decoder["outputs"][0]["comparison"] == "exact"
    assert found["token_order"]["dtype"] == "int64"


def test_a_question_that_two_cases_ask_is_written_once(tmp_path):
    index = write_vectors(tmp_path / "v", k="rope_frequencies/whole", dtype=["float64", "float32"])
    assert [entry["dtype"] for entry in index["cases"]] == ["float64", "float32"]
    assert len({entry["path"] for entry in index["cases"]}) == 1


def test_drawn_cases_are_written_on_demand_in_folders_with_short_names(tmp_path):
    index = write_vectors(tmp_path / "v", k="silu/drawn", dtype="float32", max_examples=4)
    assert {entry["id"].partition("[")[0] for entry in index["cases"]} == {"silu/drawn"}
    assert all(find_case(entry["id"]).arrays for entry in index["cases"])
    assert all(entry["path"].startswith("layer/silu/drawn-") and len(entry["path"]) < 60 for entry in index["cases"])


def test_phases_of_a_model_share_a_checkpoint_and_a_prefill_has_taps(tmp_path):
    index = write_vectors(tmp_path / "v", k="qwen3/ and f32", level="model", dtype="float32")
    found = {place.name.split("-")[1]: (place, case) for place, case in cases_of(tmp_path / "v", index)}
    assert set(found) == {"prefill", "pieces", "decode", "padded"}
    place, case = found["prefill"]
    assert found["pieces"][1]["options"]["steps"] == [8, 1, 5, 7]
    checkpoint = (place / case["checkpoint"]).resolve()
    assert all((other / files["checkpoint"]).resolve().parent == checkpoint.parent for other, files in found.values())
    tokens = load_file(place / "in.safetensors")["tokens"]
    model = refimpl.load(checkpoint, dtype="float64")
    np.testing.assert_allclose(model(tokens)[0], load_file(place / "expected.safetensors")["logits"], rtol=0, atol=1e-12)
    taps = load_file(place / "taps.safetensors")
    assert taps.keys() == model.trace(tokens).keys()
    padded, padded_case = found["padded"]
    inputs, logits = load_file(padded / "in.safetensors"), load_file(padded / "expected.safetensors")["logits"]
    assert list(logits.shape) == padded_case["outputs"][0]["shape"]
    assert not logits[inputs["attention_mask"] == 0].any()
    assert logits[inputs["attention_mask"] == 1].any(axis=-1).all()


def test_the_onnx_layout_is_what_the_loader_of_onnx_reads_and_onnxruntime_passes(tmp_path):
    import onnxruntime

    index = write_vectors(tmp_path / "v", k="attention/sink or swiglu/", dtype="float32", layer=onnx_vector)
    tests = load_model_tests(str(tmp_path / "v"), kind="simple")
    assert len(tests) == len(index["cases"]) > 5
    for test in tests:
        session = onnxruntime.InferenceSession(f"{test.model_dir}/model.onnx", providers=["CPUExecutionProvider"])
        data = {path.stem: onnx.load_tensor(path) for path in (tmp_path / "v/simple" / test.name / "test_data_set_0").iterdir()}
        inputs = {tensor.name: numpy_helper.to_array(tensor) for stem, tensor in data.items() if stem.startswith("input")}
        expected = numpy_helper.to_array(data["output_0"])
        assert test.rtol == 0
        np.testing.assert_allclose(session.run(None, inputs)[0], expected, rtol=0, atol=test.atol)


def test_what_has_no_graph_is_counted(tmp_path, monkeypatch):
    def refuse(*values, **options):
        raise onnx_cases.ExportError("no")

    monkeypatch.setattr(onnx_cases, "layer_model", refuse)
    index = write_vectors(tmp_path / "v", k="silu/", dtype="float32", layer=onnx_vector)
    assert (index["cases"], index["left_out"] > 1) == ([], True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["full"], "is not empty; vectors need a new or empty directory"),
        (["full/file"], "is a file, but vectors need a new or empty directory"),
        (["new", "--level", "law"], "level is ('law',) but vectors are made of layer and model cases"),
        (["new", "--level", "model", "--format", "onnx"], "--format onnx is of layers alone, but --level is model"),
        (["new", "-k", "no_such_layer"], "no layer or model case matches the selection"),
        (["new", "--dtype", "float8"], "dtype is 'float8' but must be one of"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    assert status(["golden", "vectors", *arguments]) == 4
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_command_writes_into_an_empty_directory_and_says_how_much(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    assert status(["golden", "vectors", str(tmp_path / "v"), "-k", "silu/", "--dtype", "float32"]) == 0
    assert "v: 2 cases of specification" in capsys.readouterr().out
    assert (tmp_path / "v/layer/silu").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path / "v", k="silu/", layer=interrupt)
    assert not list(tmp_path.iterdir())
