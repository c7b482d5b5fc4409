"""The first difference between a model and another implementation of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import refimpl
from conformance import mutants
from conformance.difference import Expected, compare, expected_taps
from conformance.doors import load_backend
from conformance.dumps import read_dump
from conformance.taps import tap_suspects
from conformance.tiny_models import MODELS
from refimpl.cli import status

ARCHITECTURES = ("gpt_oss", "qwen3", "gpt2", "deepseek_v32", "glm4_moe")
FOUND = {
    "sink-scaled": ("gpt_oss", "layers.0.mixer.attention", "attention"),
    "swiglu-gate-up-swapped": ("gpt_oss", "layers.0.mlp.experts", "routed_experts"),
    "heads-tiled": ("qwen3", "layers.0.mixer.attention", "attention"),
    "rmsnorm-eps-outside-sqrt": ("qwen3", "layers.0.mixer_norm", "rms_norm"),
    "turned-backwards": ("glm4_moe", "layers.0.mixer.q_rope", "rotary_embedding"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for tiny in MODELS:
        if tiny.architecture in ARCHITECTURES and tiny.architecture not in found:
            found[tiny.architecture] = (root / tiny.architecture, tiny.tokens())
            tiny.write(root / tiny.architecture, "float32")
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backend", ["numpy", "onnxruntime"])
def test_correct_implementations_differ_nowhere(checkpoints, architecture, backend):
    directory, tokens = checkpoints[architecture]
    expected = expected_taps(refimpl.load(directory), tokens, "float32")
    found = compare(expected, load_backend(backend).trace(directory, tokens))
    assert found.difference is None
    assert found.compared[-1] == "logits"
    assert len(found.skipped) <= 1
    assert found.unstable < 0.5


@pytest.mark.parametrize("bug", FOUND)
def test_a_fault_is_found_where_it_first_shows_and_named(checkpoints, bug):
    architecture, tap, function = FOUND[bug]
    directory, tokens = checkpoints[architecture]
    expected = expected_taps(refimpl.load(directory), tokens, "float32")
    taps = mutants.MUTANTS[bug].load(directory).trace(tokens)
    found = compare(expected, taps)
    assert found.difference is not None
    assert (found.difference.tap, found.difference.function) == (tap, function)
    assert bug in {each.mutants[0] for each in tap_suspects(directory, tokens, expected, found, taps)}


def test_a_fault_behind_a_tap_that_is_not_shown_is_suspected_too(checkpoints):
    directory, tokens = checkpoints["qwen3"]
    expected = expected_taps(refimpl.load(directory), tokens, "float32")
    taps = mutants.MUTANTS["turned-backwards"].load(directory).trace(tokens)
    shown = {name: value for name, value in taps.items() if not name.endswith("_rope")}
    found = compare(expected, shown)
    assert found.difference is not None
    assert found.difference.function == "attention"
    suspects = tap_suspects(directory, tokens, expected, found, shown)
    assert suspects[0].mutants == ("turned-backwards",)


def test_later_layers_are_found_too(checkpoints):
    directory, tokens = checkpoints["qwen3"]
    expected = expected_taps(refimpl.load(directory), tokens, "float32")
    taps = dict(refimpl.load(directory, "float32").trace(tokens))
    taps["layers.1.mlp.down_proj"] = taps["layers.1.mlp.down_proj"] * np.float32(1.001)
    found = compare(expected, taps)
    assert found.difference is not None
    assert found.difference.tap == "layers.1.mlp.down_proj"
    assert "layers.1.mlp.activation" in found.compared


def test_a_choice_of_experts_that_is_wrong_is_a_difference(checkpoints):
    directory, tokens = checkpoints["gpt_oss"]
    expected = expected_taps(refimpl.load(directory), tokens, "float32")
    taps = dict(refimpl.load(directory, "float32").trace(tokens))
    indices = taps["layers.0.mlp.router.indices"].copy()
    indices[0, 0] = (indices[0, 0] + 1) % 7
    found = compare(expected, {**taps, "layers.0.mlp.router.indices": indices}).difference
    assert found is not None
    assert found.tap == "layers.0.mlp.router.indices"


def test_heads_may_be_merged_and_taps_missing(checkpoints):
    directory, tokens = checkpoints["qwen3"]
    expected = expected_taps(refimpl.load(directory), tokens, "float32")
    taps = refimpl.load(directory, "float32").trace(tokens)
    q = taps["layers.0.mixer.q_proj"]
    found = compare(expected, {"layers.0.mixer.q_proj": q.reshape(*q.shape[:2], -1), "logits": taps["logits"]})
    assert found.difference is None
    assert found.compared == ("layers.0.mixer.q_proj", "logits")
    with pytest.raises(ValueError, match="no tap of the model is among the 1 tensors, such as mine"):
        compare(expected, {"mine": q})


def test_dumps_of_other_programs(checkpoints, tmp_path, capsys):
    directory, tokens = checkpoints["qwen3"]
    taps = refimpl.load(directory, "float32").trace(tokens)
    rows = [argument for row in tokens for argument in ("--tokens", ",".join(map(str, row)))]
    np.save(tmp_path / "logits.npy", taps["logits"])
    save_file({"blk.0.out": np.ascontiguousarray(taps["layers.0.output"]) * np.float32(2)}, tmp_path / "blocks.safetensors")
    (tmp_path / "index.json").write_text(json.dumps({"layers.0.output": "blk.0.out"}))
    assert status(["diff", str(directory), "--dump", str(tmp_path), *rows]) == 1
    assert "first difference: layers.0.output, made by add" in capsys.readouterr().out
    assert status(["diff", str(directory), "--dump", str(tmp_path), *rows, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["difference"]["tap"] == "layers.0.output"
    (tmp_path / "blocks.safetensors").unlink()
    (tmp_path / "index.json").unlink()
    assert status(["diff", str(directory), "--dump", str(tmp_path), *rows]) == 0
    assert "no difference: 1 taps compared" in capsys.readouterr().out


def _empty(path):
    return "no tensors in this directory"


def _no_array(path):
    (path / "logits.npy").write_bytes(b"nonsense")
    return "logits.npy: not an array"


def _unknown_name(path):
    np.save(path / "logits.npy", np.zeros(3))
    (path / "index.json").write_text('{"logits": "mine"}')
    return "names the tensor 'mine', which no file of the directory holds"


def _twice(path):
    np.save(path / "logits.npy", np.zeros(3))
    save_file({"logits": np.zeros(3)}, path / "z.safetensors")
    return "a tensor 'logits' stands in another file of the directory too"


@pytest.mark.parametrize("prepare", [_empty, _no_array, _unknown_name, _twice])
def test_dumps_that_are_none(tmp_path, prepare):
    sentence = prepare(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        read_dump(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "either --backend or --dump"),
        (["--backend", "numpy", "--dump", "x"], "either --backend or --dump"),
        (["--dump", "x"], "--dump needs --tokens"),
        (["--dump", "nowhere", "--tokens", "1,2"], "no such directory of tensors"),
        (["--backend", "numpy", "--tokens", "1,x"], "--tokens is '1,x' but needs integers separated by commas"),
        (["--backend", "numpy", "--tokens", "1,2", "--dtype", "int8"], "int8"),
        (["--backend", "onnx-reference:operators"], "shows no taps; it needs trace"),
    ],
)
def test_calls_that_are_wrong(checkpoints, capsys, arguments, sentence):
    directory, _ = checkpoints["qwen3"]
    assert status(["diff", str(directory), *arguments]) == 4
    assert sentence in capsys.readouterr().err


def test_tokens_that_are_all_nearly_tied_leave_nothing_to_compare(checkpoints, monkeypatch, capsys):
    directory, _ = checkpoints["gpt_oss"]
    stable = Expected.stable

    def no_token(self, index, before):
        return stable(self, index, before) & (self.names[index] != "layers.0.mlp.router.indices")

    monkeypatch.setattr(Expected, "stable", no_token)
    assert status(["diff", str(directory), "--backend", "numpy"]) == 5
    assert "100% of the tokens left out" in capsys.readouterr().out
