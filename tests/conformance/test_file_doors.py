"""Backends that are no Python: a program that is asked in files, and a directory of answers."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conformance import BackendError, load_backend, reproduce, run
from conformance.vectors import program
from conformance.vectors.write import write_vectors
from refimpl.cli import status

PLAIN = "rms_norm/plain-any-f32-b2t5d24"
SOME = "rms_norm/zero_centred-any or rms_norm/plain or rope_cos_sin/near or law/rms_norm_rows"
ABOUT = '{"name": "mine", "version": "7", "layers": ["rms_norm", "rope_cos_sin", "silu"], "models": true}'
# The specification as a program. What it writes comes after it.
ANSWER = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file
import refimpl
from refimpl.layers import VOCABULARY

case, inputs = json.loads(Path(sys.argv[1]).read_text()), load_file(sys.argv[2])
options = {name: value for name, value in case["options"].items() if value is not None}
if options.pop("zero_centred", False):
    print("some words first", "no zero-centred weights", sep="\\n", file=sys.stderr)
    sys.exit(3)
if case["level"] == "model":
    model, start, cache, found = refimpl.load(Path(sys.argv[1]).parent / case["checkpoint"]), 0, None, []
    mask = {"attention_mask": inputs["attention_mask"]} if "attention_mask" in inputs else {}
    for step in options["steps"]:
        logits, cache = model(inputs["tokens"][:, start : start + step], cache, **mask)
        found.append(logits)
        start += step
    results = (np.concatenate(found, axis=1),)
else:
    results = VOCABULARY[case["function"]](**inputs, **options)
    results = results if isinstance(results, tuple) else (results,)
out = {output["name"]: np.ascontiguousarray(array) for output, array in zip(case["outputs"], results)}
"""
# One layer, without the time that importing the specification takes.
NORM = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file

x, weight = (load_file(sys.argv[2])[name] for name in ("x", "weight"))
out = {"out": x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-6)) * weight}
"""
WRITE = "save_file(out, sys.argv[3])\n"


@pytest.fixture
def runner(tmp_path):
    """Makes a program of Python text behind --about; a path with a space in it."""

    def make(text, about=ABOUT):
        path = tmp_path / "a runner"
        begin = f"import sys\nif sys.argv[1:] == ['--about']:\n    print({about!r})\n    sys.exit()\n"
        path.write_text(f"#!{sys.executable}\n{begin}{text}", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return f"exec:{path}"

    return make


def asked(backend, case_id=PLAIN):
    result = reproduce(case_id, backend)[1]
    return result.verdict, result.judgement.sentence


def test_a_program_is_judged_like_any_backend(runner):
    report = run(runner(ANSWER + WRITE), k=SOME, max_examples=2, workers=0)
    found = {result.verdict for result in report.results}
    assert (report.backend, report.version, report.settings["dtypes"]) == ("mine", "7", ["float32"])
    assert found <= {"pass", "unsupported", "not covered"}
    assert {result.level for result in report.results if result.verdict == "pass"} == {"layer", "law"}
    assert "no zero-centred weights" in {r.judgement.sentence for r in report.results if r.verdict == "unsupported"}


def test_a_program_is_asked_for_models_in_every_phase(runner):
    report = run(runner(ANSWER + WRITE), level="model", k="qwen3/window", workers=0)
    assert {result.verdict for result in report.results} == {"pass"}
    assert len(report.results) == 4
    wrong = runner(ANSWER + "out['logits'][0, 9:] = out['logits'][0, 8]\n" + WRITE)
    assert {result.verdict for result in run(wrong, level="model", k="qwen3/window", workers=0).results} == {"fail"}


def test_a_wrong_number_is_a_failure_of_the_layer(runner):
    assert asked(runner(NORM + "out['out'] = out['out'] * np.float32(1.01)\n" + WRITE))[0] == "fail"


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        ("sys.exit()", "the program ended with status 0 but wrote no out.safetensors"),
        ("sys.exit('it\\nbroke')", "the program ended with status 1: it | broke"),
        ("sys.exit(9)", "the program ended with status 9 and said nothing"),
        ("import os; os.kill(os.getpid(), 11)", "the program was ended by SIGSEGV"),
        ("Path(sys.argv[3]).write_text('garbage')", "has 7 bytes but a safetensors file has at least 8"),
        ("Path(sys.argv[3]).write_bytes(b'')", "has 0 bytes but a safetensors file has at least 8: truncated?"),
        (WRITE + "p = Path(sys.argv[3]); p.write_bytes(p.read_bytes()[:-3])", "but the file has only"),
        ("save_file({'y': out['out']}, sys.argv[3])", "answered with the tensors y but needs out"),
        ("save_file({}, sys.argv[3])", "answered with no tensors but needs out"),
        ("save_file({**out, 'more': out['out']}, sys.argv[3])", "answered with the tensors more, out but needs out"),
        ("save_file({'out': out['out'][:1]}, sys.argv[3])", "returned shape (1, 5, 24) but needs (2, 5, 24)"),
        ("save_file({'out': out['out'].astype(int)}, sys.argv[3])", "returned dtype int64 but needs a float format"),
        ("save_file({'out': out['out'].astype(np.float16)}, sys.argv[3])", "returned dtype float16 but needs float32"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence(runner, ending, sentence):
    verdict, said = asked(runner(NORM + ending))
    assert verdict in ("fail", "error")
    assert sentence in said
    assert "/tmp" not in said
    assert "\n" not in said


def test_a_program_that_hangs_is_ended(runner):
    about = '{"layers": ["rms_norm"], "timeout_s": 0.3}'
    assert asked(runner("while True: pass", about)) == ("error", "the program gave no answer in 0.3 seconds")


def test_a_flood_of_words_does_not_stop_a_program(runner):
    flood = "for _ in range(20000): print('x' * 50); print('y' * 50, file=sys.stderr)\n"
    assert asked(runner(NORM + flood + WRITE))[0] == "pass"


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ("no JSON", "no JSON is not JSON; it needs an object such as"),
        ("[1]", "needs a JSON object with the keys name, version, dtypes, layers, models, timeout_s, but is [1]"),
        ('{"layer": []}', "needs a JSON object with the keys"),
        ('{"layers": ["rmsnorm"]}', "'rmsnorm' is no layer; did you mean 'rms_norm'?"),
        ('{"layers": "rms_norm"}', 'layers is "rms_norm" but needs a list of strings'),
        ('{"layers": ["silu"], "dtypes": ["float8"]}', "but needs names among float64, float32, bfloat16, float16"),
        ('{"layers": ["silu"], "timeout_s": 0}', "timeout_s is 0 but needs a number of seconds above 0"),
        ('{"layers": []}', "names no layers and no models, so there is nothing to ask"),
    ],
)
def test_what_a_program_says_of_itself_is_checked(runner, about, sentence):
    with pytest.raises(BackendError, match="exec:") as raised:
        load_backend(runner("", about))
    assert sentence in str(raised.value)


def test_a_program_that_cannot_be_asked_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "ABOUT_SECONDS", 0.3)
    texts = {"no_bang": "echo", "fails": "#!/bin/sh\necho why >&2\nexit 2", "hangs": "#!/bin/sh\nexec sleep 60"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh")
    expected = {
        "": "exec: needs a program after the colon",
        "./nothing_here": "./nothing_here: no such program",
        "no_such_command --fast": "no_such_command: no such program",
        "'open": "cannot be read as a command (No closing quotation)",
        f"{tmp_path}/plain": "is not executable (chmod +x",
        f"{tmp_path}/no_bang": "the program cannot be run (Exec format error)",
        f"{tmp_path}/fails": "the program ended with status 2: why",
        f"{tmp_path}/hangs": "the program gave no answer in 0.3 seconds",
    }
    for command, sentence in expected.items():
        assert status(["conform", f"exec:{command}", "-k", "silu/"]) == 4
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1


def test_a_command_may_have_arguments_and_is_found_in_the_path(tmp_path):
    (tmp_path / "it.py").write_text(f"import sys\nassert sys.argv[1] == 'word'\nprint('''{ABOUT}''')\n")
    found = load_backend(f"exec:{shlex.quote(sys.executable)} {tmp_path}/it.py word")
    assert (found.name, set(found.functions), found.loads_models) == ("mine", {"rms_norm", "rope_cos_sin", "silu"}, True)
    assert found.reference.startswith("exec:")


@pytest.fixture
def vectors(tmp_path):
    write_vectors(tmp_path / "v", k="rms_norm/ or silu/ or soft_cap/", dtype="float32", max_examples=0)
    return tmp_path / "v"


def answer(root, function, change=lambda out: out):
    for place in sorted((root / "layer" / function).iterdir()):
        out = {name: array.astype(np.float32) for name, array in load_file(place / "expected.safetensors").items()}
        save_file(change(out), place / "out.safetensors")


def test_answers_in_a_directory_are_judged(vectors):
    answer(vectors, "silu")
    answer(vectors, "rms_norm", lambda out: {"out": out["out"] * np.float32(1.01)})
    (vectors / "about.json").write_text('{"name": "theirs", "version": "3"}')
    report = run(f"answers:{vectors}", level="layer", max_examples=2, k="rms_norm/ or silu/ or soft_cap/", workers=0)
    found = {}
    for result in report.results:
        found.setdefault((result.layer, "drawn" in result.id), set()).add(result.verdict)
    assert (report.backend, report.version, report.settings["dtypes"]) == ("theirs", "3", ["float32"])
    assert {key: verdicts for key, verdicts in found.items() if key[0] != "gated_rms_norm"} == {
        ("silu", False): {"pass"},
        ("silu", True): {"not covered"},
        ("rms_norm", False): {"fail"},
        ("rms_norm", True): {"not covered"},
        ("soft_cap", False): {"not covered"},
        ("soft_cap", True): {"not covered"},
    }


def test_drawn_cases_are_found_among_the_answers(tmp_path):
    write_vectors(tmp_path / "v", k="silu/drawn", dtype="float32", max_examples=4)
    answer(tmp_path / "v", "silu")
    (result,) = run(f"answers:{tmp_path / 'v'}", k="silu/drawn", max_examples=4, workers=0).results
    assert result.verdict == "pass"


def test_an_answer_may_be_a_refusal_or_broken_or_missing(vectors):
    answer(vectors, "silu")
    places = sorted((vectors / "layer/silu").iterdir())
    (places[0] / "out.safetensors").write_bytes(b"12345678")
    (places[1] / "out.safetensors").unlink()
    (places[1] / "unsupported.txt").write_text("words\nno large values\n")
    results = run(f"answers:{vectors}", k="silu/", max_examples=0, workers=0).results
    found = {(result.verdict, result.judgement.sentence) for result in results}
    assert ("unsupported", "no large values") in found
    assert any(verdict == "error" and "the answer is not a safetensors file" in sentence for verdict, sentence in found)


def test_blocks_laws_and_models_without_answers_are_not_covered(vectors):
    answer(vectors, "rms_norm")
    report = run(
        f"answers:{vectors}", level=["block", "model", "law"], dtype="float32", k="rms_norm or gated or llama", workers=0
    )
    assert {result.verdict for result in report.results} == {"not covered"}


def test_models_are_answered_offline_by_the_program_that_answers_online(tmp_path, runner):
    command = [runner(ANSWER + WRITE).removeprefix("exec:")]
    index = write_vectors(tmp_path / "v", k="qwen3/window", level="model", dtype="float32")
    for entry in index["cases"]:
        place = tmp_path / "v" / entry["path"]
        subprocess.run([*command, "case.json", "in.safetensors", "out.safetensors"], cwd=place, check=True)
    report = run(f"answers:{tmp_path / 'v'}", k="qwen3", level=["model", "law"], workers=0)
    found = {result.id: result.verdict for result in report.results if "qwen3/window" in result.id}
    assert len(found) == 4
    assert set(found.values()) == {"pass"}
    assert "fail" not in report.counts() or not report.counts()["fail"]


def test_a_directory_without_answers_is_one_sentence(vectors, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    index = json.loads((vectors / "vectors.json").read_text())
    (tmp_path / "other/vectors.json").write_text(json.dumps({**index, "spec_version": "1999.1"}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/vectors.json").write_text('{"format": 1')
    expected = {
        "": "needs a directory after the colon",
        tmp_path / "nothing": "no such directory",
        tmp_path / "empty": "holds no vectors.json; `refimpl golden vectors DIR` writes such a directory",
        tmp_path / "other": "is of format 1 and specification 1999.1, but this suite reads format 1 of",
        tmp_path / "bad": "is not the index of a directory of vectors",
        vectors: "but none has an out.safetensors beside it",
    }
    for directory, sentence in expected.items():
        with pytest.raises(BackendError) as raised:
            load_backend(f"answers:{directory}")
        assert sentence in str(raised.value)
