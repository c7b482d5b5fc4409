"""The judge tells what is right in another way from what is wrong, in every dtype, and says what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.backend import as_backend
from conformance.case import TOKENS, rule_text
from conformance.cases import FAMILIES
from conformance.judge import CONSTANT, PATIENCE, Norms, expect, judge_one, rounding_noise
from conformance.mutants import MUTANTS
from conformance.readings import Exact
from conformance.variants.judging import JudgedLayer
from refimpl.layers import VOCABULARY

DTYPES = ("float64", "float32", "bfloat16", "float16")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_an_output_two_per_cent_too_large_is_caught_by_the_rms():
    backend = as_backend(dict(MUTANTS["attention-2-per-cent-too-large"].functions))
    found = [JudgedLayer(case).judge(backend) for case in FAMILIES["attention"].cases("bfloat16")]
    assert max(judgement.rms_error / judgement.rms_budget for judgement in found) > 2


def test_inputs_are_numbers_of_the_tested_dtype_and_truths_are_wider():
    for dtype in DTYPES:
        case = FAMILIES["attention"].cases(dtype)[0]
        assert {str(array.dtype) for array in case.arrays.values()} == {dtype}
        (truth,) = case.evaluate(Exact(dtype))
        assert truth.dtype == (np.longdouble if dtype == "float64" else np.float64)


def test_every_function_of_the_vocabulary_has_cases_and_rules_that_exist():
    assert list(FAMILIES) == list(VOCABULARY)
    for family in FAMILIES.values():
        for case in family.cases(family.dtypes[0]):
            for rule in case.rules:
                assert len(rule_text(family.function, rule)) > 10, (case.id, rule)


def test_dimensions_of_the_large_attention_case_differ():
    case = next(case for case in FAMILIES["attention"].cases("float32") if "grouped-pieces" in case.id)
    B, T, H, K = case.arrays["q"].shape
    _, S, G, J = case.arrays["v"].shape
    assert len({B, T, S, H, G, K, J}) == 7
    assert H // G == 3


def one_case(dtype="float32"):
    return FAMILIES["rms_norm"].cases(dtype)[0]


def answer(case, change):
    (expected,) = expect(case.evaluate, case.dtype)
    return judge_one(change(expected.truth.astype(np.float32)), expected, case.dtype, axes="BTD")


def test_the_verdict_names_what_is_wrong():
    case = one_case()

    def holed(truth):
        truth = truth.copy()
        truth[1, 2, 3] = np.nan
        return truth

    assert answer(case, lambda truth: truth).verdict == "pass"
    assert answer(case, lambda truth: truth[:, :3]).kind == "shape"
    assert answer(case, lambda truth: truth.astype(np.float64)).kind == "dtype"
    assert answer(case, lambda truth: truth.tolist()).kind == "dtype"
    broken = answer(case, holed)
    assert broken.kind == "non-finite"
    assert broken.worst == "B=1 T=2 D=3"
    constant = answer(case, np.zeros_like)
    assert constant.kind == "numeric"
    assert "constant" in constant.sentence


def test_the_worst_place_is_named():
    def moved(truth):
        truth = truth.copy()
        truth[1, 4, 7] += 1
        return truth

    judgement = answer(one_case(), moved)
    assert judgement.verdict == "fail"
    assert judgement.worst.startswith("B=1 T=4 D=7: yours ")


def test_both_norms_must_be_inside():
    (expected,) = expect(one_case().evaluate, "float32")
    budget = expected.settled().budget
    one_wild = np.zeros(expected.truth.shape)
    one_wild.flat[0] = 1.5 * budget.maximum
    all_off = np.full(expected.truth.shape, 1.1 * budget.rms)
    assert Norms.of(one_wild).rms < budget.rms
    assert Norms.of(all_off).maximum < budget.maximum
    for error in (one_wild, all_off):
        output = (expected.truth + error).astype(np.float32)
        assert judge_one(output, expected, "float32").verdict == "fail"


def test_further_rounds_are_drawn_where_the_first_does_not_decide_and_only_there():
    (expected,) = expect(one_case().evaluate, "float32")
    asked = []

    def further():
        asked.append(1)
        return 2 * expected.noise

    def verdict(error: float) -> str:
        output = (expected.truth + error * expected.budget.rms).astype(np.float32)
        return judge_one(output, replace(expected, further=further), "float32").verdict

    assert [verdict(error) for error in (0.5, PATIENCE + 1)] == ["pass", "fail"]
    assert asked == []
    assert [verdict(error) for error in (1.5, 3.0)] == ["pass", "fail"]
    assert asked == [1, 1]


def test_the_noise_of_all_rounds_holds_that_of_the_first():
    for one in expect(one_case().evaluate, "float32"):
        assert one.noise.maximum <= one.settled().noise.maximum <= PATIENCE * one.noise.maximum
        assert one.settled().further is None


def test_a_case_whose_inputs_overflow_the_dtype_is_refused():
    case = FAMILIES["linear"].drawn({"front": (1,), "inputs": 2, "outputs": 2}, 0, "float16")

    def overflowing(reading):
        x = np.full((1, 4), 300.0, reading.wide)
        return (reading.call("linear", x, np.full((2, 4), 300.0, reading.wide)),)

    expect(case.evaluate, "float16")
    with pytest.raises(ValueError, match="do not fit float16"):
        expect(overflowing, "float16")


def test_the_floor_of_the_noise_is_an_ulp_of_the_output():
    noise = rounding_noise(np.array([0.25, -4.0]), "bfloat16")
    assert noise.maximum == pytest.approx(4 * 2**-7)
    assert noise.rms == pytest.approx(2**-8 * (1 + 1 / np.sqrt(2)) * np.sqrt((16 + 1 / 16) / 2))
    assert CONSTANT == 2


def test_dtype_tokens_are_distinct():
    assert len(set(TOKENS.values())) == len(TOKENS)
