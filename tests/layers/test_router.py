"""Routers against a loop over tokens that takes one expert at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import (
    sigmoid_router,
    softcapped_softmax_router,
    softmax_top_k_router,
    top_k_sigmoid_router,
    top_k_softmax_router,
)
from refimpl.numerics import LowPrecision, low_precision, plain
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16
ROUTERS: dict[Callable[..., Any], dict[str, Any]] = {
    top_k_softmax_router: {},
    softmax_top_k_router: {"renormalise": True},
    softcapped_softmax_router: {"softcap": 2.0},
    sigmoid_router: {},
    top_k_sigmoid_router: {},
}
EVERY = pytest.mark.parametrize(("router", "options"), ROUTERS.items(), ids=[router.__name__ for router in ROUTERS])
# Few values, so that many logits are equal; sums of two sigmoids of them are equal only where their terms are.
LOGITS = st.sampled_from([0.0, -0.0, 0.3, 1.1, 2.7, -0.4, -5.0])


def rows(experts: int) -> st.SearchStrategy[np.ndarray]:
    row = st.lists(LOGITS, min_size=experts, max_size=experts)
    return st.lists(row, max_size=3).map(lambda found: np.array(found).reshape(-1, experts))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Logits [N, E] and top_k."""
    experts = draw(st.integers(1, 7), label="E")
    return draw(rows(experts), label="logits"), draw(st.integers(1, experts), label="top_k")


def largest(scores: list[float], count: int, among: Iterable[int] | None = None) -> list[int]:
    """Take the largest, then the largest of the rest, and so on; of equal ones `max` gives the first."""
    left = sorted(range(len(scores)) if among is None else among)
    chosen: list[int] = []
    for _ in range(count):
        best = max(left, key=lambda expert: scores[expert])
        left.remove(best)
        chosen.append(best)
    return chosen


def softmax(logits: list[float]) -> list[float]:
    odds = [math.exp(logit - max(logits)) for logit in logits]
    return [odd / math.fsum(odds) for odd in odds]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def route(
    logits: list[float], bias: list[float], groups: int, top_groups: int, **options: Any
) -> tuple[list[int], list[float]]:
    """`sigmoid_router` of one token."""
    scores = [sigma(logit) for logit in logits]
    corrected = [score + correction for score, correction in zip(scores, bias, strict=True)]
    size = len(logits) // groups
    sums = [sum(sorted(corrected[start : start + size])[-2:]) for start in range(0, len(logits), size)]
    members = [expert for group in largest(sums, top_groups) for expert in range(group * size, (group + 1) * size)]
    chosen = largest(corrected, options["top_k"], members)
    divisor = math.fsum(scores[expert] for expert in chosen) + options["eps"] if options["renormalise"] else 1
    return chosen, [options["scaling_factor"] * scores[expert] / divisor for expert in chosen]


def assert_routes(found: tuple[np.ndarray, np.ndarray], expected: list[tuple[list[int], list[float]]], top_k: int) -> None:
    indices, weights = found
    assert indices.shape == weights.shape == (len(expected), top_k)
    assert indices.tolist() == [chosen for chosen, _ in expected]
    np.testing.assert_allclose(weights, np.array([row for _, row in expected]).reshape(-1, top_k), rtol=1e-13)


class TestTopKSoftmaxRouter:
    @given(problems())
    def test_equals_the_loop(self, problem) -> None:
        logits, top_k = problem
        chosen = [largest(row, top_k) for row in logits.tolist()]
        expected = [(which, softmax([row[e] for e in which])) for which, row in zip(chosen, logits.tolist(), strict=True)]
        assert_routes(top_k_softmax_router(logits, top_k=top_k), expected, top_k)

    def test_r1_the_weights_sum_to_1(self) -> None:
        for top_k in (1, 2, 6):
            np.testing.assert_allclose(top_k_softmax_router(5 * normal(4, 6), top_k=top_k)[1].sum(axis=-1), 1, rtol=1e-14)

    @pytest.mark.parametrize("other", [-100.0, 2.0, -np.inf])
    def test_r2_a_logit_that_was_not_chosen_changes_nothing(self, other: float) -> None:
        changed, logits = np.array([[other, 4.0, other, 3.0, other], [1.0, 4.0, -1.0, 3.0, 2.5]])
        for found, expected in zip(top_k_softmax_router(changed, top_k=2), top_k_softmax_router(logits, top_k=2), strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_r3_of_equal_logits_the_lower_index_is_chosen_and_comes_first(self) -> None:
        assert top_k_softmax_router(np.array([1.0, 3, 3, 2, 3]), top_k=2)[0].tolist() == [1, 2]
        assert top_k_softmax_router(np.array([2.0, 3, 3, 2, 3]), top_k=4)[0].tolist() == [1, 2, 4, 0]
        assert top_k_softmax_router(np.array([0.0, -0.0, 0.0]), top_k=2)[0].tolist() == [0, 1]

    def test_large_logits_do_not_overflow(self) -> None:
        with np.errstate(over="raise", invalid="raise"):
            assert top_k_softmax_router(np.array([-1e6, 1e6, 1e6]), top_k=2)[1].tolist() == [0.5, 0.5]


class TestSoftmaxTopKRouter:
    @given(problems(), st.booleans())
    def test_equals_the_loop(self, problem, renormalise: bool) -> None:
        logits, top_k = problem
        expected = []
        for row in logits.tolist():
            p = softmax(row)
            which = largest(row, top_k)
            total = math.fsum(p[e] for e in which) if renormalise else 1
            expected.append((which, [p[e] / total for e in which]))
        assert_routes(softmax_top_k_router(logits, top_k=top_k, renormalise=renormalise), expected, top_k)

    def test_r1_the_weights_sum_to_less_than_1_where_an_expert_is_left_out(self) -> None:
        logits = normal(5, 6)
        for top_k in range(1, 6):
            assert (softmax_top_k_router(logits, top_k=top_k, renormalise=False)[1].sum(axis=-1) < 1 - 1e-3).all()
        np.testing.assert_allclose(softmax_top_k_router(logits, top_k=6, renormalise=False)[1].sum(axis=-1), 1, rtol=1e-14)

    @given(problems())
    def test_r2_renormalised_it_equals_top_k_softmax(self, problem) -> None:
        logits, top_k = problem
        indices, weights = softmax_top_k_router(logits, top_k=top_k, renormalise=True)
        other_indices, other_weights = top_k_softmax_router(logits, top_k=top_k)
        np.testing.assert_array_equal(indices, other_indices)
        np.testing.assert_allclose(weights, other_weights, rtol=1e-13)

    def test_r3_of_equal_probabilities_the_lower_index_comes_first(self) -> None:
        assert softmax_top_k_router(np.array([1.0, 3, 3, 2, 3]), top_k=4, renormalise=True)[0].tolist() == [1, 2, 4, 3]
        # The probabilities of the first two are 0 both, though their logits are not equal.
        assert softmax_top_k_router(np.array([-2000.0, -1000, 0]), top_k=2, renormalise=False)[0].tolist() == [2, 0]


class TestSoftcappedSoftmaxRouter:
    @given(problems(), st.sampled_from([0.5, 3.0, 30.0]))
    def test_equals_the_loop(self, problem, softcap: float) -> None:
        logits, top_k = problem
        expected = []
        for row in logits.tolist():
            p = softmax([softcap * math.tanh(logit / softcap) for logit in row])
            which = largest(row, top_k)
            expected.append((which, [p[e] for e in which]))
        assert_routes(softcapped_softmax_router(logits, top_k=top_k, softcap=softcap), expected, top_k)

    def test_r1_the_weights_are_not_renormalised(self) -> None:
        weights = softcapped_softmax_router(np.zeros((1, 4)), top_k=2, softcap=30.0)[1]
        np.testing.assert_allclose(weights, [[0.25, 0.25]], rtol=1e-14)

    def test_r2_the_cap_comes_before_the_softmax(self) -> None:
        weight = softcapped_softmax_router(np.array([9.0, 0.0]), top_k=1, softcap=3.0)[1].item()
        assert math.isclose(weight, 1 / (1 + math.exp(-3 * math.tanh(3))), rel_tol=1e-14)

    def test_r3_of_equal_probabilities_the_lower_index_comes_first(self) -> None:
        assert softcapped_softmax_router(np.array([1.0, 3, 3, 2, 3]), top_k=3, softcap=30.0)[0].tolist() == [1, 2, 4]
        # Both are at the cap, though their logits are not equal.
        assert softcapped_softmax_router(np.array([0.0, 1e6, 1e7]), top_k=1, softcap=1.0)[0].tolist() == [1]

    @pytest.mark.parametrize("softcap", [0, -1.0, math.inf, None])
    def test_the_cap_must_be_positive(self, softcap) -> None:
        with pytest.raises(ValueError, match=f"^softcapped_softmax_router: softcap is {softcap!r} but needs a positive number"):
            softcapped_softmax_router(np.ones(3), top_k=1, softcap=softcap)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Logits, correction bias and options of `sigmoid_router`; groups of one expert, of two and of more."""
    groups, size = draw(st.integers(1, 4), label="groups"), draw(st.integers(1, 4), label="size")
    top_groups = draw(st.integers(1, groups), label="top_groups")
    bias = draw(
        st.lists(st.sampled_from([0.0, 0.25, -7.5, 90.0]), min_size=groups * size, max_size=groups * size), label="bias"
    )
    options = {
        "groups": groups,
        "top_groups": top_groups,
        "top_k": draw(st.integers(1, size * top_groups), label="top_k"),
        "renormalise": draw(st.booleans(), label="renormalise"),
        "eps": draw(st.sampled_from([0.0, 1e-20, 0.5]), label="eps"),
        "scaling_factor": draw(st.sampled_from([1.0, 2.5]), label="factor"),
    }
    return draw(rows(groups * size), label="logits"), np.array(bias), options


class TestSigmoidRouter:
    @given(grouped())
    def test_equals_the_loop(self, problem) -> None:
        logits, bias, options = problem
        expected = [route(row, bias.tolist(), **options) for row in logits.tolist()]
        assert_routes(sigmoid_router(logits, bias, **options), expected, options["top_k"])

    def test_without_options_it_renormalises_in_one_group(self) -> None:
        indices, weights = sigmoid_router(np.array([1.0, -2.0, 0.5]), top_k=2)
        first, second = sigma(1.0), sigma(0.5)
        assert indices.tolist() == [0, 2]
        np.testing.assert_allclose(weights, [first / (first + second), second / (first + second)], rtol=1e-14)

    @pytest.mark.parametrize("size", [0.75, 1e9, -1e9])
    def test_r1_the_bias_chooses_and_never_weighs(self, size: float) -> None:
        logits, bias = np.array([1.0, -2.0, 0.5, 0.25]), np.array([0.0, size, 0.0, 0.0])
        indices, weights = sigmoid_router(logits, bias, top_k=2, renormalise=False)
        assert indices.tolist() == ([1, 0] if size > 0 else [0, 2])
        np.testing.assert_allclose(weights, [sigma(logits[e]) for e in indices], rtol=1e-15)

    def test_r2_a_group_is_as_good_as_its_two_best(self) -> None:
        # Groups 0, 1, 2: the single best expert is in 1, the largest sum in 2, the two best in 0.
        bias = np.array([0.8, 0.8, 0.0, 1.0, 0.1, 0.0, 0.6, 0.6, 0.6])
        indices, _ = sigmoid_router(np.zeros(9), bias, top_k=2, groups=3, top_groups=1)
        assert indices.tolist() == [0, 1]

    def test_r2_a_group_of_one_is_as_good_as_its_expert(self) -> None:
        logits = np.array([0.1, 2.0, -1.0, 1.0])
        assert sigmoid_router(logits, top_k=2, groups=4, top_groups=2)[0].tolist() == [1, 3]

    @pytest.mark.parametrize("shift", [-0.6, -50.0, -1e9, 1e9])
    def test_r3_an_expert_outside_is_not_chosen_however_negative_the_scores_inside_are(self, shift: float) -> None:
        # The second group is the better one by its two best; its third expert is the worst of all.
        bias = shift + np.array([0.0, 0.0, 0.0, 0.5, 0.5, -0.5 * abs(shift)])
        indices, _ = sigmoid_router(np.zeros(6), bias, top_k=3, groups=2, top_groups=1)
        assert indices.tolist() == [3, 4, 5]

    @pytest.mark.parametrize("renormalise", [False, True])
    def test_r4_the_factor_multiplies_last_whether_renormalised_or_not(self, renormalise: bool) -> None:
        logits = normal(3, 5)
        options = {"top_k": 2, "renormalise": renormalise, "eps": 0.25}
        np.testing.assert_allclose(
            sigmoid_router(logits, scaling_factor=2.5, **options)[1], 2.5 * sigmoid_router(logits, **options)[1], rtol=1e-15
        )

    def test_r5_of_equal_scores_the_lower_index_comes_first_and_so_for_groups(self) -> None:
        assert sigmoid_router(np.array([0.0, 1, 0, 1, 1]), top_k=4)[0].tolist() == [1, 3, 4, 0]
        assert sigmoid_router(np.zeros(6), top_k=3, groups=3, top_groups=2)[0].tolist() == [0, 1, 2]
        assert sigmoid_router(np.array([0, 0, 1.0, 2, 2, 1]), top_k=1, groups=3, top_groups=1)[0].tolist() == [3]

    def test_experts_that_are_all_shut_have_weight_0(self) -> None:
        indices, weights = sigmoid_router(np.full(4, -np.inf), top_k=2)
        assert (indices.tolist(), weights.tolist()) == ([0, 1], [0, 0])

    def test_a_bias_of_minus_infinity_shuts_an_expert(self) -> None:
        assert sigmoid_router(np.zeros(4), np.array([-np.inf, 0, -np.inf, 0]), top_k=3)[0].tolist() == [1, 3, 0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"groups": 4}, "1 experts of 1 groups cannot be chosen from 6 experts in 4 groups"),
            ({"groups": 2, "top_groups": 3}, "1 experts of 3 groups cannot be chosen from 6 experts in 2 groups"),
            ({"groups": 3, "top_k": 3}, "3 experts of 1 groups cannot be chosen from 6 experts in 3 groups"),
            ({"groups": 0}, "groups is 0 but needs a positive integer"),
            ({"top_groups": 1.0}, "top_groups is 1.0 but needs a positive integer"),
            ({"renormalise": 1}, "renormalise is 1 but needs True or False"),
            ({"eps": -1e-9}, "eps is -1e-09 but needs a number of at least 0"),
            ({"scaling_factor": math.nan}, "scaling_factor is nan but needs a finite number"),
        ],
    )
    def test_wrong_options_are_one_sentence(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^sigmoid_router: {message}$"):
            sigmoid_router(np.zeros((2, 6)), **{"top_k": 1, **options})

    @pytest.mark.parametrize(
        ("bias", "message"),
        [
            (np.zeros(5), r"correction_bias has shape \(5,\) but needs \[E\] with E = 6 as in logits"),
            (np.zeros(6, np.float32), "correction_bias has dtype float32 but logits has float64; they must be equal"),
            ([0.0] * 6, r"correction_bias is a list but needs a NumPy array of shape \[E\]"),
        ],
    )
    def test_another_bias_is_one_sentence(self, bias, message: str) -> None:
        with pytest.raises(ValueError, match=f"^sigmoid_router: {message}$"):
            sigmoid_router(np.zeros((2, 6)), bias, top_k=1)


class TestTopKSigmoidRouter:
    @given(problems())
    def test_equals_the_loop(self, problem) -> None:
        logits, top_k = problem
        chosen = [largest(row, top_k) for row in logits.tolist()]
        expected = [(which, [sigma(row[e]) for e in which]) for which, row in zip(chosen, logits.tolist(), strict=True)]
        assert_routes(top_k_sigmoid_router(logits, top_k=top_k), expected, top_k)

    def test_r1_the_weights_are_not_renormalised(self) -> None:
        assert top_k_sigmoid_router(np.array([0.0, 0, -5, 0]), top_k=3)[1].tolist() == [0.5, 0.5, 0.5]
        assert math.isclose(top_k_sigmoid_router(np.array([-3.0, -4]), top_k=1)[1].item(), sigma(-3.0), rel_tol=1e-15)

    def test_r2_of_equal_logits_the_lower_index_comes_first(self) -> None:
        assert top_k_sigmoid_router(np.array([1.0, 3, 3, 2, 3]), top_k=4)[0].tolist() == [1, 2, 4, 3]
        # The sigmoids of both are 1, but the logits are not equal.
        assert top_k_sigmoid_router(np.array([40.0, 50.0]), top_k=1)[0].tolist() == [1]


@EVERY
class TestEveryRouter:
    @pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 6), (0, 6), (2, 0, 6)])
    def test_tokens_of_any_shape_are_routed_one_by_one(self, router, options: dict, shape: tuple[int, ...]) -> None:
        logits = normal(*shape)
        indices, weights = router(logits, top_k=4, **options)
        assert indices.shape == weights.shape == (*shape[:-1], 4)
        assert indices.dtype.kind == "i"
        for token in np.ndindex(shape[:-1]):
            alone = router(logits[token], top_k=4, **options)
            assert indices[token].tolist() == alone[0].tolist()
            np.testing.assert_allclose(weights[token], alone[1], rtol=1e-14)

    def test_all_equal_chooses_the_first_in_order(self, router, options: dict) -> None:
        for experts in (1, 5, 40):
            for top_k in {1, experts // 2 + 1, experts}:
                indices, weights = router(np.full((2, experts), 0.7), top_k=top_k, **options)
                assert indices.tolist() == [list(range(top_k))] * 2
                assert np.ptp(weights) == 0

    def test_the_chosen_come_in_descending_order(self, router, options: dict) -> None:
        _, weights = router(normal(20, 9), top_k=5, **options)
        assert (np.diff(weights, axis=-1) <= 0).all()

    def test_experts_of_minus_infinity_are_chosen_last_and_once_and_weigh_0(self, router, options: dict) -> None:
        logits = np.array([-np.inf, 1.0, -np.inf, 2.0, -np.inf])
        indices, weights = router(logits, top_k=4, **options)
        assert indices.tolist() == [3, 1, 0, 2]
        assert (weights[:2] > 0.1).all()
        if router is not softcapped_softmax_router:  # which makes -2 of -inf
            assert (weights[2:] == 0).all()

    def test_a_permutation_of_the_experts_permutes_the_choice(self, router, options: dict) -> None:
        logits, permutation = normal(4, 8), np.random.default_rng(3).permutation(8)
        indices, weights = router(logits, top_k=3, **options)
        moved, same = router(logits[:, permutation], top_k=3, **options)
        np.testing.assert_array_equal(permutation[moved], indices)
        np.testing.assert_allclose(same, weights, rtol=1e-14)

    def test_keeps_the_dtype_and_the_inputs(self, router, options: dict) -> None:
        logits = normal(4, 8, dtype="float32")
        before = logits.copy()
        indices, weights = router(logits, top_k=3, **options)
        wide, wide_weights = router(logits.astype(np.float64), top_k=3, **options)
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(logits, before)
        np.testing.assert_array_equal(indices, wide)
        np.testing.assert_allclose(weights, wide_weights, rtol=3e-7)

    def test_t1_low_precision_routes_in_float32_and_rounds_the_weights_once(self, router, options: dict) -> None:
        low = low_precision(normal(50, 8), BF16)
        indices, weights = router(low, top_k=3, **options)
        expected, wide_weights = router(plain(low), top_k=3, **options)
        assert isinstance(weights, LowPrecision)
        assert not isinstance(indices, LowPrecision)
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(plain(weights), wide_weights.astype(BF16).astype(np.float32))

    @pytest.mark.parametrize(
        ("logits", "top_k", "message"),
        [
            (np.ones(5), 6, "top_k is 6 but logits has only 5 experts"),
            (np.ones((3, 0)), 1, "top_k is 1 but logits has only 0 experts"),
            (np.ones(5), 0, "top_k is 0 but needs a positive integer"),
            (np.ones(5), 1.0, "top_k is 1.0 but needs a positive integer"),
            (np.ones(5), True, "top_k is True but needs a positive integer"),
            (np.ones(()), 1, r"logits has shape \(\) but needs \[..., E\]"),
            (np.ones(5, int), 1, "logits has dtype int64 but needs float64 or float32"),
            ([1.0, 2.0], 1, "logits is a list but needs a NumPy array"),
        ],
    )
    def test_bad_input_is_one_sentence(self, router, options: dict, logits, top_k, message: str) -> None:
        with pytest.raises(ValueError, match=f"^{router.__name__}: {message}"):
            router(logits, top_k=top_k, **options)


class TestNarrowChoices:
    """Scores that would be equal in bfloat16 are not equal in float32, in which experts are chosen."""

    def test_t1_sigmoids_are_compared_in_float32(self) -> None:
        logits = np.array([5.0, 5.03125], np.float32)
        assert np.ptp(np.array([sigma(x) for x in logits]).astype(BF16).astype(float)) == 0
        assert sigmoid_router(low_precision(logits, BF16), top_k=1)[0].tolist() == [1]

    def test_t1_probabilities_are_compared_in_float32(self) -> None:
        logits = np.array([0.0625, 0.0625 + 2.0**-11, -1.0], np.float32)
        low = low_precision(logits, BF16)
        assert len(set(plain(low).tolist())) == 3
        assert len(set(np.array(softmax(logits.tolist())).astype(BF16).astype(float))) == 2
        for options in ({"renormalise": False}, {"renormalise": True}):
            assert softmax_top_k_router(low, top_k=1, **options)[0].tolist() == [1]
        assert softcapped_softmax_router(low, top_k=1, softcap=30.0)[0].tolist() == [1]

    def test_t1_the_correction_bias_is_not_rounded(self) -> None:
        bias = np.array([3.0, 3.0 + 2.0**-12], np.float32)
        assert sigmoid_router(low_precision(np.zeros(2), BF16), bias, top_k=1)[0].tolist() == [1]
