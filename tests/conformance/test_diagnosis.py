"""A wrong answer is told which known bug it looks like."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conformance import run
from conformance.engine_diagnosis import diagnose_logits
from conformance.mutants import MUTANTS, load
from conformance.tiny_models import MODELS
from refimpl.cli import status
from refimpl.numerics import plain

LAYERS = {
    "sink-scaled": "attention/sink",
    "swa-window-plus-one-fa": "attention/window",
    "gemma-norm-offset-missing": "rms_norm/zero_centred",
    "rope-interleaved-instead-of-half": "rotary_embedding",
    "gelu-exact-for-gelu-new": "gelu/",
    "gdn-gva-tile-instead-of-interleave": "gated_delta_rule",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tiny = next(tiny for tiny in MODELS if tiny.architecture == "gpt_oss")
    directory = tmp_path_factory.mktemp("checkpoint") / "gpt_oss"
    tiny.write(directory, "float32")
    return directory, tiny.tokens()


@pytest.mark.parametrize("bug", LAYERS)
def test_the_first_suspect_of_a_faulty_layer_is_its_fault(bug):
    report = run(MUTANTS[bug].functions, k=LAYERS[bug], level="layer", dtype="float32", max_examples=0, diagnose=True)
    failures = [result for result in report.failures() if result.judgement.kind == "numeric"]
    assert failures
    for result in failures:
        shares = [suspect.share for suspect in result.judgement.suspects]
        assert shares == sorted(shares)
        assert bug in [mutant for suspect in result.judgement.suspects for mutant in suspect.mutants]
    assert f"looks like {bug}: {MUTANTS[bug].says}" in _text(failures[0])


def _text(result):
    from conformance.text import failure_text

    return failure_text(result, "mine")


def test_suspects_are_in_the_record_and_can_be_left_out():
    functions = {"rms_norm": MUTANTS["gemma-norm-offset-missing"].functions["rms_norm"]}
    settings = {"k": "rms_norm/zero_centred-", "level": "layer", "dtype": "float32", "max_examples": 0}
    told, silent = (run(functions, **settings, diagnose=diagnose) for diagnose in (True, False))
    record = json.loads(told.to_json())["results"][0]
    assert record["suspects"][0]["mutants"] == ["gemma-norm-offset-missing"]
    assert record["suspects"][0]["sentence"]
    assert "suspects" not in json.loads(silent.to_json())["results"][0]


def test_failures_that_are_listed_are_not_diagnosed(tmp_path):
    functions = {"rms_norm": MUTANTS["gemma-norm-offset-missing"].functions["rms_norm"]}
    listed = tmp_path / "xfails"
    listed.write_text("rms_norm/zero_centred-*  # known\n")
    settings = {"k": "rms_norm/zero_centred", "level": "layer", "dtype": "float32", "max_examples": 0}
    report = run(functions, **settings, xfails_file=listed, diagnose=True)
    assert report.expected_failures()
    assert not any(result.judgement.suspects for result in report.expected_failures())
    assert all(result.judgement.suspects for result in report.failures() if result.judgement.kind == "numeric")
    assert report.failures()


def test_an_error_of_no_known_kind_has_no_suspects():
    def rms_norm(x, weight=None, *, eps, zero_centred=False):
        return np.cos(37 * x)

    report = run({"rms_norm": rms_norm}, k="rms_norm/plain", level="layer", dtype="float32", max_examples=0, diagnose=True)
    assert report.failures()
    assert not report.failures()[0].judgement.suspects


@pytest.mark.parametrize(
    "bugs", [("sink-scaled",), ("swa-window-plus-one-fa", "swiglu-gate-up-swapped")], ids=lambda bugs: "-".join(bugs)
)
def test_logits_of_a_faulty_engine_name_the_fault_or_the_two(checkpoint, bugs):
    directory, tokens = checkpoint
    logits = plain(load(directory, *(MUTANTS[bug] for bug in bugs))(tokens)[0])
    found = diagnose_logits(directory, tokens, logits, "float32")
    assert not found.right
    assert set(found.suspects[0].mutants) == set(bugs)


def test_logits_that_are_right_or_of_another_shape(checkpoint):
    directory, tokens = checkpoint
    logits = plain(load(directory)(tokens)[0])
    assert diagnose_logits(directory, tokens, logits, "float32").right
    assert (
        "shape (2, 20, 103) but (2, 21, 103) is needed" in diagnose_logits(directory, tokens, logits[:, 1:], "float32").text()
    )
    assert diagnose_logits(directory, tokens[:1], logits[0], "float32").right


def test_the_command_reads_logits(checkpoint, tmp_path, capsys):
    directory, tokens = checkpoint
    rows = [argument for row in tokens for argument in ("--tokens", ",".join(map(str, row)))]
    file = tmp_path / "logits.npy"
    np.save(file, plain(load(directory, MUTANTS["sink-scaled"])(tokens)[0]))
    arguments = ["diagnose", "--logits", str(file), "--checkpoint", str(directory), *rows]
    assert status(arguments) == 1
    assert "looks like sink-scaled: " in capsys.readouterr().out
    assert status([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["suspects"][0]["mutants"] == ["sink-scaled"]


def test_the_command_runs_a_backend(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def rms_norm(x, weight=None, *, eps, zero_centred=False):\n"
        "    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))\n"
        "    return y if weight is None else y * weight\n"
    )
    arguments = ["diagnose", str(tmp_path / "mine.py"), "-k", "rms_norm", "--dtype", "float32"]
    assert status(arguments) == 1
    printed = capsys.readouterr().out
    assert "failures look like known bugs" in printed
    assert "gemma-norm-offset-missing: " in printed.splitlines()[1]
    assert status([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["suspects"][0]["explains"] >= 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either BACKEND or --logits"),
        (["numpy", "--logits", "x.npy"], "give either BACKEND or --logits"),
        (["--logits", "x.npy"], "--logits needs --checkpoint and --tokens"),
        (["--logits", "x.npy", "--checkpoint", ".", "--tokens", "1,2"], "x.npy: not an array"),
        (["--logits", "x.npy", "--checkpoint", ".", "--tokens", "1,2", "--tokens", "1"], "rows of 2, 1 but need one length"),
    ],
)
def test_calls_that_are_wrong(capsys, arguments, sentence):
    assert status(["diagnose", *arguments]) == 4
    assert sentence in capsys.readouterr().err
