"""Choices: right or wrong where scores decide, any of equal scores, and inputs that decide."""

from __future__ import annotations

import numpy as np
import pytest

from conformance import run
from conformance.backend import as_backend
from conformance.blocks import BLOCKS, block_cases, evaluate_block
from conformance.cases import FAMILIES
from conformance.choice import border_stands, drawn_until, favouring, favouring_kept, stands
from conformance.judge import expect
from conformance.readings import Exact, InFormat, Nearby, Perturbed
from conformance.results import ROUTERS, check_result
from conformance.unsteady import Unsteady
from refimpl import layers
from refimpl.numerics import FORMATS
from refimpl.ops import Traced

DTYPES = tuple(FORMATS)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def top_two(scores):
    return layers.top_k_softmax_router(scores, top_k=2)[0]


def test_the_favoured_of_equals_is_chosen_and_nothing_else_changes():
    scores = np.array([[1.0, 3.0, 3.0, 3.0, 0.0]])
    for chosen in ([3, 2], [2, 1], [1, 3]):
        favoured = favouring(scores, np.array([chosen]))
        assert top_two(favoured).tolist() == [chosen]
        assert np.abs(favoured - scores).max() < 1e-13
    for wrong in ([0, 1], [4, 0]):
        assert top_two(favouring(scores, np.array([wrong]))).tolist() != [wrong]


def test_hidden_experts_may_be_chosen_in_any_order_after_the_others():
    scores = np.array([[-np.inf, 2.0, -np.inf, -np.inf]])
    for chosen in ([1, 3], [1, 0]):
        indices, weights = layers.softmax_top_k_router(favouring(scores, np.array([chosen])), top_k=2, renormalise=True)
        assert indices.tolist() == [chosen]
        assert weights == pytest.approx(np.array([[1.0, 0.0]]), abs=1e-40)
    assert top_two(favouring(scores, np.array([[3, 1]]))).tolist() == [[1, 3]]


@pytest.mark.parametrize("chosen", [np.array([[7, 0]]), np.array([[-1, 0]]), np.array([0, 1]), np.zeros((2, 2), int)])
def test_what_is_no_choice_is_not_favoured(chosen):
    scores = np.array([[1.0, 1.0, 1.0]])
    assert favouring(scores, chosen) is scores


def test_the_favoured_of_equal_keys_are_kept_and_nothing_else_changes():
    scores = np.array([[[1.0, 3.0, 3.0, 3.0, 0.0]]])
    for columns in ([2, 3], [1, 3], [1, 2]):
        kept = np.full((1, 1, 1, 5), -np.inf)
        kept[..., columns] = 0
        favoured = favouring_kept(scores, kept)
        assert np.array_equal(layers.key_selection(favoured, top_k=2, causal=False), kept)
        assert np.abs(favoured - scores).max() < 1e-13
    wrong = np.where(np.arange(5) < 2, 0, -np.inf)[None, None, None]
    assert not np.array_equal(layers.key_selection(favouring_kept(scores, wrong), top_k=2, causal=False), wrong)
    assert favouring_kept(scores, wrong[0]) is scores


def test_a_set_stands_with_its_border_whatever_its_order():
    clear, order, border = [5.0, 4.0, 3.0, 0.0], [5.0, 4.95, 3.0, 0.0], [5.0, 4.0, 3.95, 0.0]
    assert border_stands(np.array([clear, order, border]), 2, 2.0**-8).tolist() == [True, True, False]
    assert border_stands(np.array([border]), 2, 2.0**-11).all()
    assert border_stands(np.array([border, [5.0, 5.0, -np.inf, -np.inf]]), 4, 1.0).all()
    assert border_stands(np.array([[5.0, -np.inf, -np.inf], [5.0, 5.0, -np.inf]]), 2, 1.0).all()


def test_a_choice_stands_with_its_order_and_its_border():
    clear, order, border = [5.0, 4.0, 3.0, 0.0], [5.0, 4.95, 3.0, 0.0], [5.0, 4.0, 3.95, 0.0]
    found = stands(top_two, np.array([clear, order, border]), 2.0**-8)
    assert found.tolist() == [True, False, False]
    assert stands(top_two, np.array([order, border]), 2.0**-11).all()


def test_tokens_that_cannot_decide_are_one_sentence():
    with pytest.raises(ValueError, match=r"^0 of \d+ drawn tokens have scores that decide, but 3 are needed$"):
        drawn_until(lambda rows: np.zeros(len(rows), bool), lambda count: np.zeros((count, 4)), 3)


def _own_readings(dtype):
    """Of the inputs of a case themselves."""
    return InFormat(dtype), *(Unsteady(dtype, seed) for seed in range(5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_scores_stay_equal_when_every_step_is_off(dtype):
    scores, seen = np.full((1, 8), 2.0), set()
    for seed in range(20):
        indices, weights = Unsteady(dtype, seed).call("softcapped_softmax_router", scores, top_k=2, softcap=3.0)
        assert indices.tolist() == [[0, 1]]
        assert weights[0, 0] == weights[0, 1]
        seen.add(weights[0, 0])
    assert len(seen) > 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ROUTERS)
def test_no_reading_of_a_case_that_decides_chooses_otherwise(function, dtype):
    for case in FAMILIES[function].cases(dtype):
        if "ties" in case.id or "tied" in case.id or "too_few" in case.id:
            continue
        truth = expect(case.evaluate, dtype)[0]
        assert truth.noise is None
        for reading in _own_readings(dtype):
            assert np.array_equal(case.evaluate(reading)[0], truth.truth), (case.id, type(reading).__name__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ROUTERS)
def test_the_noise_beside_a_choice_does_not_depend_on_which_of_equal_scores_a_candidate_chooses(function, dtype):
    (case,) = (one for one in FAMILIES[function].cases(dtype) if "/ties-" in one.id)
    first, last = _choice(case), _choice(case, backwards=True)
    assert not np.array_equal(first, last)
    of_first, of_last = (case.expected((chosen, None)) for chosen in (first, last))
    assert np.array_equal(of_first[0].truth, first)
    assert np.array_equal(of_last[0].truth, last)
    one, other = (found[1].noise for found in (of_first, of_last))
    assert (one.maximum, one.rms) == pytest.approx((other.maximum, other.rms), rel=1e-9)


def _choice(case, *, backwards=False):
    """The indices that a router chooses, or one that has the experts in the other order."""
    step = -1 if backwards else 1
    logits, *bias = (array.astype(np.float64)[..., ::step] for array in case.arrays.values())
    indices, _ = getattr(layers, case.function)(logits, *bias, **case.options)
    return logits.shape[-1] - 1 - indices if backwards else indices


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_reading_of_a_block_chooses_otherwise(dtype):
    cases = [case for case in block_cases(dtype) if case.function == "moe_block"]
    assert len(cases) == len(BLOCKS["moe_block"])
    for case in cases:

        def chosen(reading, case=case):
            ops, values = Traced(reading.ops()), case.inputs(reading)
            case.block(ops, {name: reading.cast(array) for name, array in values.items()}, reading.cast(values["x"]))
            return ops.values["router.indices"]

        truth = chosen(Exact(dtype))
        for reading in (*_own_readings(dtype), *(Perturbed(dtype, seed) for seed in range(4))):
            assert np.array_equal(chosen(reading), truth), (case.id, type(reading).__name__)
        for seed in range(6):
            assert np.array_equal(chosen(InFormat(dtype, seed)), chosen(Nearby(dtype, seed))), (case.id, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_reading_of_a_block_selects_other_keys(dtype):
    cases = [case for case in block_cases(dtype) if "indexer" in case.id]
    assert len(cases) == 4
    for case in cases:

        def kept(reading, case=case):
            ops = Traced(reading.ops())
            evaluate_block(case.block, case.inputs(reading), ops, reading, past=case.past)
            return np.asarray(ops.values["indexer.selection"])

        truth = kept(Exact(dtype))
        assert ((truth == 0).sum(axis=-1) == case.block.indexer.top_k).any()
        for reading in (*_own_readings(dtype), *(Perturbed(dtype, seed) for seed in range(4))):
            assert np.array_equal(kept(reading), truth), (case.id, type(reading).__name__)
        for seed in range(6):
            assert np.array_equal(kept(InFormat(dtype, seed)), kept(Nearby(dtype, seed))), (case.id, seed)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.zeros((2, 3)), "returned 1 arrays but needs a tuple of 2"),
        ((np.zeros((2, 3)), np.zeros((2, 3))), "returned dtype float64 but needs an integer format"),
        ((np.zeros((2, 3), int), np.zeros((2, 3), int)), "returned dtype int64 but needs a float format"),
    ],
)
def test_what_a_router_cannot_return_is_named(result, words):
    with pytest.raises(Exception, match=words):
        check_result("sigmoid_router", result)


@pytest.mark.parametrize("change", [lambda i: i + 100, lambda i: -1 - i, lambda i: i[..., :1], lambda i: 0 * i])
def test_indices_that_are_none_are_a_failure_everywhere(change):
    def router(logits, *, top_k):
        indices, weights = layers.top_k_softmax_router(logits, top_k=top_k)
        return change(indices), weights

    report = run({"top_k_softmax_router": router}, k="top_k_softmax", max_examples=2)
    ran = [result for result in report.results if result.ran]
    assert {result.level for result in ran} == {"layer", "block"}
    assert {result.verdict for result in ran} <= {"fail", "pass"}
    assert sum(result.verdict == "fail" for result in ran) > len(ran) / 2


def test_blocks_find_a_gate_and_an_expert_that_are_wrong():
    for name, function, variants in (
        ("sigmoid_gate", lambda x, gate: x, {"shared_gate"}),
        ("routed_experts", lambda x, indices, weights, *rest, **options: x * 0, set(BLOCKS["moe_block"])),
        ("log_floor_temperature", lambda positions, **options: np.ones(positions.shape, np.float32), {"nope_temperature"}),
        ("ring_order", lambda order, *, window: order[:, -window:], {"sinks_ring", "window_bias_ring", "chunk_ring"}),
    ):
        backend = as_backend({name: function})
        failed = {
            case.id.split("/")[1].split("-")[0]
            for case in block_cases("bfloat16")
            if case.judge(backend, None).verdict == "fail"
        }
        assert failed >= variants, (name, failed)
