"""The model level: what an engine must offer, and what is said when it offers less; the laws in the specification itself."""

from __future__ import annotations

import numpy as np
import pytest

import refimpl
from conformance import run
from conformance.backends import numpy as specification
from conformance.judge import Norms
from conformance.laws import LAWS
from conformance.readings import Exact
from conformance.tiny import Specification
from conformance.tiny_models import MODELS


def verdicts(load, **options):
    report = run({"load": load}, level="model", k="smollm3/tied", dtype="float32", **options)
    return {result.id.split("-")[1]: (result.verdict, result.judgement.sentence) for result in report.results}


def test_an_engine_without_cache_and_padding_is_asked_for_the_rest():
    def load(directory):
        model = specification.load(directory)
        return lambda tokens: model(tokens)[0]

    found = verdicts(load)
    assert found["prefill"][0] == "pass"
    assert found["pieces"] == found["decode"] == ("unsupported", "the loaded model returns no cache")
    assert found["padded"][0] == "unsupported"
    assert "attention_mask" in found["padded"][1]


@pytest.mark.parametrize(
    ("load", "verdict", "words"),
    [
        (lambda directory: 1 / 0, "error", "ZeroDivisionError"),
        (lambda directory: None, "error", "load returned a NoneType"),
        (lambda directory: lambda tokens: "text", "fail", "returned a str"),
        (lambda directory: lambda tokens: np.zeros((2, 3), np.float32), "fail", "logits of shape (2, 3)"),
        (lambda directory: lambda tokens: np.zeros((*tokens.shape, 101), np.float32), "fail", "a constant"),
        (lambda directory: lambda tokens: np.full((*tokens.shape, 101), np.nan, np.float32), "fail", "NaN"),
        (lambda directory: lambda tokens: np.zeros((*tokens.shape, 101), np.float16), "fail", "float32 or wider"),
    ],
)
def test_engines_that_misbehave_are_named(load, verdict, words):
    found = verdicts(load)["prefill"]
    assert found[0] == verdict
    assert words in found[1]


def test_a_refusal_to_load_is_unsupported():
    def load(directory):
        raise NotImplementedError("no float32 here")

    assert set(verdicts(load).values()) == {("unsupported", "no float32 here")}


@pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: f"{tiny.architecture}-{tiny.variant}")
def test_checkpoints_load_and_the_reading_is_the_model(tiny, tmp_path):
    tiny.write(tmp_path / "tiny", "bfloat16")
    assert len(list((tmp_path / "tiny").glob("*.safetensors"))) > 1
    logits, _ = refimpl.load(tmp_path / "tiny", "float64")(tiny.tokens())
    mine, _ = Specification(tiny, Exact("bfloat16"), "bfloat16")(tiny.tokens())
    assert np.array_equal(logits, mine)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.functions[0]}-{law.name}")
def test_the_sides_of_a_law_are_equal_in_exact_arithmetic(law):
    for dtype in law.dtypes:
        case = law.case(dtype)
        left, right = case.evaluate(Exact(dtype))
        assert left.shape == right.shape
        error = Norms.of(left - right).maximum
        limit = 1e-3 if dtype == "float64" else 1e-2
        expected = case.expected()
        if error > limit * sum(one.budget.maximum for one in expected):
            assert error <= limit * sum(one.settled().budget.maximum for one in expected), dtype
        assert Norms.of(left).maximum > 0.05
