"""Whole runs: what is blamed, what is reported, and how a run ends."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from conformance import BackendError, load_backend, reproduce, run
from conformance.backends import numpy as specification
from conformance.laws.model import LAWS as MODEL_LAWS
from conformance.mutants import MUTANTS
from conformance.text import failure_text, summary_table, totals_text
from refimpl.layers import VOCABULARY, rms_norm

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CLASSIC = (
    "swa-window-plus-one-fa",
    "rope-interleaved-instead-of-half",
    "rmsnorm-eps-outside-sqrt",
    "sink-kernel-unreachable",
    "softcap-missing",
    "heads-tiled",
    "causal-mask-top-left-with-cache",
    "other-form-of-gelu",
    "swiglu-gate-up-swapped-in-the-mlp",
    "gemma-norm-offset-missing",
)


def faulty(label):
    ((name, function),) = MUTANTS[label].functions.items()
    return name, function


def all_functions(**changed):
    return {**{name: getattr(specification, name) for name in VOCABULARY}, **changed}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("label", CLASSIC)
def test_a_planted_fault_fails_on_its_layer(label, dtype):
    name, function = faulty(label)
    report = run(all_functions(**{name: function}), level="layer", dtype=dtype, max_examples=10)
    assert report.exit_code == 1
    assert {result.layer for result in report.failures()} == {name}
    assert all(result.judgement.kind == "numeric" for result in report.failures())


def test_nope_ignored_fails_in_every_phase_of_every_such_model():
    report = run({"load": MUTANTS["smollm3-nope-config-field-unread"].load}, level="model", k="smollm3", dtype="bfloat16")
    assert all(result.verdict == "fail" for result in report.results)
    assert run({"load": MUTANTS["smollm3-nope-config-field-unread"].load}, level="model", k="qwen3/", dtype="bfloat16").ok


def test_the_laws_alone_find_what_they_are_about():
    found = {
        "swa-window-plus-one-fa": "window_of_the_length",
        "sink-kernel-unreachable": "sink_is_a_key",
        "heads-tiled": "repeated_heads",
        "causal-mask-top-left-with-cache": "incremental_is_full",
        "padding-seen": "padding",
        "columns-taken-for-places": "order_of_storage",
    }
    for label, law in found.items():
        name, function = faulty(label)
        failed = run({name: function}, level="law", dtype="float32").failures()
        if label == "swa-window-plus-one-fa":  # the same for every window: no law says how long one is
            assert not failed
        else:
            assert any(law in result.id and result.judgement.kind == "law" for result in failed), label
    engine = MUTANTS["decode-rope-position-off-by-one"].load
    # The laws of two architectures, written out because the name of the second is the beginning of another's.
    laws = " or ".join(["smollm3", *(f"qwen3_{law}" for law in MODEL_LAWS)])
    failed = run({"load": engine}, level="law", dtype="bfloat16", k=laws).failures()
    assert {result.id.split("-")[0] for result in failed} == {
        "law/smollm3_incremental_is_full",
        "law/qwen3_incremental_is_full",
        "law/smollm3_pieces_are_whole",
        "law/qwen3_pieces_are_whole",
    }


def test_blocks_find_a_fault_through_the_wiring():
    name, function = faulty("rope-interleaved-instead-of-half")
    report = run({name: function}, level="block", dtype="bfloat16")
    rotating = {"attention_block", "latent_attention_block", "decoder_layer", "multi_token_block"}
    assert {result.layer for result in report.failures()} == rotating
    assert all("nope" not in result.id for result in report.failures())
    assert {result.layer for result in report.results if result.verdict == "not covered"} >= {"gated_mlp_block", "mlp_block"}


@pytest.mark.parametrize("level", ["layer", "block", "model", "law"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_specification_conforms_at_every_dtype_and_covers_everything(dtype, level):
    report = run("numpy", level=level, dtype=dtype, max_examples=5)
    assert report.ok
    assert report.counts()["not covered"] == report.counts()["unsupported"] == 0
    assert report.score == 1
    assert {result.dtype for result in report.results} - {"int64"} == {dtype}
    assert ("int64" in {result.dtype for result in report.results}) == (level == "layer")


def misbehaving(change):
    def rms_norm_changed(x, weight=None, *, eps, zero_centred=False):
        return change(x, rms_norm(x, weight, eps=eps, zero_centred=zero_centred))

    return run({"rms_norm": rms_norm_changed, "silu": specification.silu}, level="layer", dtype="float32", max_examples=5)


def written_into(x, y):
    x[...] = 0
    return y


@pytest.mark.parametrize(
    ("change", "verdict", "kind", "words"),
    [
        (lambda x, y: y * np.float32(np.nan), "fail", "non-finite", "NaN"),
        (lambda x, y: np.zeros_like(y), "fail", "numeric", "a constant"),
        (lambda x, y: y[..., :-1], "fail", "shape", "needs (2, 5, 24)"),
        (lambda x, y: y.astype(np.float64), "fail", "dtype", "returned dtype float64 but needs float32"),
        (lambda x, y: y.tolist(), "fail", "dtype", "returned a list"),
        (lambda x, y: (y, y), "fail", "shape", "returned 2 arrays"),
        (lambda x, y: 1 / 0, "error", "", "raised ZeroDivisionError: division by zero"),
        (written_into, "fail", "mutation", "wrote into its argument 'x'"),
    ],
)
def test_misbehaviour_is_named_and_the_run_goes_on(change, verdict, kind, words):
    report = misbehaving(change)
    found = next(result for result in report.results if result.id.startswith("rms_norm/plain"))
    assert (found.verdict, found.judgement.kind) == (verdict, kind)
    assert words in found.judgement.sentence
    assert {result.verdict for result in report.results if result.layer == "silu"} == {"pass"}
    assert report.exit_code == 1


def test_an_exit_and_a_refusal_are_verdicts_too():
    def refusing(x, weight=None, *, eps):
        if weight is None:
            raise NotImplementedError("no norm without a weight")
        return rms_norm(x, weight, eps=eps)

    def leaving(x):
        raise SystemExit(3)

    report = run({"rms_norm": refusing, "silu": leaving}, level="layer", dtype="float32", max_examples=10)
    verdicts = {result.id: result for result in report.results}
    assert verdicts["rms_norm/no_weight-any-f32-b2t5d24"].judgement.sentence == "no norm without a weight"
    assert verdicts["rms_norm/zero_centred-any-f32-b2t5d24"].verdict == "unsupported"
    assert "zero_centred" in verdicts["rms_norm/zero_centred-any-f32-b2t5d24"].judgement.sentence
    assert verdicts["rms_norm/drawn-any-f32"].verdict == "pass"
    assert "unsupported" in verdicts["rms_norm/drawn-any-f32"].judgement.sentence
    assert verdicts["silu/around_zero-any-f32-b2t5f24"].verdict == "error"


def test_a_search_reports_the_smallest_failing_case_and_it_fails_again():
    function = faulty("swa-window-plus-one-fa")[1]
    report = run({"attention": function}, k="drawn", dtype="float32", level="layer")
    (failed,) = report.failures()
    assert failed.id == "attention/drawn-any-f32"
    assert "window=" in failed.judgement.minimal
    case, again = reproduce(failed.judgement.minimal, {"attention": function})
    assert again.verdict == "fail"
    assert case.arrays["q"].shape[1] == 1
    assert reproduce(failed.judgement.minimal, "numpy")[1].verdict == "pass"


def test_a_failure_in_words():
    report = run({"attention": faulty("sink-kernel-unreachable")[1]}, k="sink_window-decode", level="layer", dtype="bfloat16")
    text = failure_text(report.failures()[0], "path/to/my adapter.py")
    lines = text.splitlines()
    assert lines[0].startswith("FAIL (numeric)  attention/sink_window-decode-bf16-w128p17        rule R3: `window` W: exactly")
    assert "budget" in text
    assert "rms" in text
    assert any(line.strip().startswith("worst at B=0 T=0 H=") for line in lines)
    last = "reproduce:  refimpl reproduce attention/sink_window-decode-bf16-w128p17 --backend 'path/to/my adapter.py'"
    assert lines[-1].strip() == last
    assert len(lines) <= 10


def test_reports_as_files(tmp_path):
    report = run(all_functions(silu=lambda x: x), level="layer", k="silu/ or gelu/", dtype="float32", max_examples=5)
    record = json.loads(report.to_json(tmp_path / "report.json"))
    assert (tmp_path / "report.json").read_text() == report.to_json()
    assert record["schema_version"] == 1
    assert record["counts"]["fail"] == len(report.failures()) > 0
    assert [entry["id"] for entry in record["results"]] == sorted(entry["id"] for entry in record["results"])
    suites = ElementTree.fromstring(report.to_junit(tmp_path / "report.xml"))
    assert sum(int(suite.get("failures")) for suite in suites) == len(report.failures())
    assert len(suites.findall(".//failure")) == len(report.failures())
    page = report.to_html(tmp_path / "report.html")
    assert "silu/around_zero-any-f32-b2t5f24" in page
    assert summary_table(report).row_count == 2
    assert "fail" in totals_text(report)


def test_a_run_leaves_nothing_where_it_was_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("numpy", k="rms_norm or smollm3", dtype="float32").ok
    assert list(tmp_path.iterdir()) == []


def test_two_runs_give_the_same_report(forget_expectations):
    first = run("numpy", dtype="bfloat16", k="attention", max_examples=10).to_json()
    forget_expectations()
    assert run("numpy", dtype="bfloat16", k="attention", max_examples=10).to_json() == first


class Recorder:
    def __init__(self):
        self.events = []

    def start(self, total):
        self.events.append(total)

    def advance(self, result):
        self.events.append(result.id)

    def finish(self):
        self.events.append("finished")


def test_progress_is_told():
    recorder = Recorder()
    report = run("numpy", k="rms_norm and f32", progress=recorder)
    assert recorder.events == [len(report.results), *(result.id for result in report.results), "finished"]


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [
        ({"k": "no_such_case"}, 5),
        ({"k": "rms_norm", "min_cases": 1000}, 5),
        ({"k": "rms_norm", "min_cases": 3}, 0),
        ({"k": "rms_norm"}, 0),
    ],
)
def test_too_few_cases_are_not_a_success(options, exit_code):
    report = run({"rms_norm": specification.rms_norm}, level="layer", dtype="float32", max_examples=2, **options)
    assert report.exit_code == exit_code
    assert bool(report.too_few) == (exit_code == 5)
    assert report.ok == (exit_code == 0)


def test_a_backend_that_refuses_everything_does_not_conform():
    def refusing(*values, **options):
        raise NotImplementedError("later")

    report = run({"silu": refusing}, dtype="float32", level="layer")
    assert report.exit_code == 5
    assert "0 cases ran" in report.too_few


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": "a and"}, "missing at the end"),
        ({"k": "(a or b"}, "a parenthesis is not closed"),
        ({"k": "a b"}, "unexpected 'b'"),
        ({"k": ""}, "missing at the end"),
        ({"dtype": "float8"}, "dtype is 'float8' but must be one of float64, float32, bfloat16, float16, or all"),
        ({"level": "op"}, "level is 'op' but must be one of layer, block, model, law"),
        ({"max_examples": -1}, "max_examples is -1"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"xfails_file": "/no/such/file"}, "cannot be read"),
    ],
)
def test_a_wrong_call_is_one_sentence(options, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        run("numpy", **options)
    assert words in str(error.value)


def test_unknown_backend_is_one_sentence():
    with pytest.raises(BackendError, match="did you mean 'numpy'"):
        load_backend("nunpy")
