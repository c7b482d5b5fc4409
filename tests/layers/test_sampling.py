"""Sampling: the filters by hand, and the law of speculative sampling by exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from conformance.mutants.speculation import RULES
from refimpl.layers import sample_token, speculative_accept, token_distribution


def distribution(*logits: float, **options) -> list[float]:
    return token_distribution(np.array(logits), **options).tolist()


def close(actual: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-14, atol=1e-16)


QUARTERS = np.log([1.0, 2.0, 4.0, 1.0])  # of which the softmax is 1/8, 2/8, 4/8, 1/8


class TestTokenDistribution:
    def test_is_a_softmax(self) -> None:
        close(distribution(*QUARTERS), [0.125, 0.25, 0.5, 0.125])

    def test_r1_temperature_divides(self) -> None:
        close(distribution(*QUARTERS, temperature=0.5), [1 / 22, 4 / 22, 16 / 22, 1 / 22])

    def test_r1_temperature_comes_before_top_p(self) -> None:
        hot, cold = (np.count_nonzero(distribution(*QUARTERS, temperature=t, top_p=0.6)) for t in (1.0, 0.5))
        assert (hot, cold) == (2, 1)

    def test_r2_equals_on_the_border_of_top_k_all_stay(self) -> None:
        close(distribution(2.0, 0.0, 1.0, 1.0, 1.0, top_k=2), [*(np.exp([2.0, -np.inf, 1, 1, 1]) / np.exp([2, 1, 1, 1]).sum())])
        close(distribution(*QUARTERS, top_k=3), [0.125, 0.25, 0.5, 0.125])

    def test_r3_top_p_keeps_the_token_that_reaches_it(self) -> None:
        close(distribution(*QUARTERS, top_p=0.6), [0, 1 / 3, 2 / 3, 0])

    def test_r3_top_p_that_is_met_exactly_needs_no_further_token(self) -> None:
        even = [0.0, 0.0, -np.inf, -np.inf]  # a half each, exactly
        assert distribution(*even, top_p=0.5) == [0.5, 0.5, 0, 0]
        assert distribution(0.0, -800.0, top_p=0.999999) == [1, 0]
        exact = [0.0, float(np.log(0.5)), float(np.log(0.5))]
        assert token_distribution(np.array(exact))[0] == 0.5
        assert distribution(*exact, top_p=0.5) == [1, 0, 0]
        assert np.count_nonzero(distribution(*exact, top_p=np.nextafter(0.5, 1))) == 3

    def test_r4_top_p_sees_what_top_k_left(self) -> None:
        # Of 1/3 and 2/3 the second alone reaches 0.6; of all four it does not.
        close(distribution(*QUARTERS, top_k=2, top_p=0.6), [0, 0, 1, 0])

    def test_r4_min_p_sees_what_the_others_left(self) -> None:
        close(distribution(*QUARTERS, min_p=0.5), [0, 1 / 3, 2 / 3, 0])
        close(distribution(*QUARTERS, top_k=2, min_p=0.51), [0, 0, 1, 0])

    @pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}])
    def test_r5_the_likeliest_token_stays(self, options: dict) -> None:
        assert distribution(*QUARTERS, **options) == [0, 0, 1, 0]

    @pytest.mark.parametrize("options", [{"top_k": 4}, {"top_k": 99}, {"top_p": 1.0}, {"min_p": 0.0}])
    def test_r5_filters_of_nothing(self, options: dict) -> None:
        far = (*QUARTERS, -60.0)  # a token behind the last digit of the sum
        assert distribution(*far, **options)[:4] == distribution(*far)[:4]
        assert (distribution(*far, **options)[4] > 0) == (options != {"top_k": 4})

    @pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.1, "min_p": 0.9}])
    def test_r6_temperature_zero_takes_the_first_of_the_largest(self, options: dict) -> None:
        assert distribution(1.0, 3.0, 3.0, -np.inf, temperature=0.0, **options) == [0, 1, 0, 0]

    def test_r6_is_the_limit(self) -> None:
        close(distribution(*QUARTERS, temperature=1e-3), distribution(*QUARTERS, temperature=0))

    def test_r7_hidden_tokens(self) -> None:
        close(distribution(0.0, -np.inf, 0.0, top_k=3, top_p=0.9, min_p=0.1), [0.5, 0, 0.5])

    def test_large_logits_at_a_small_temperature_stay_finite(self) -> None:
        assert distribution(1e150, -1e150, temperature=1e-150) == [1, 0]
        assert token_distribution(np.array([1, 2], np.float32), temperature=1e-60).tolist() == [0, 1]

    def test_rows_do_not_see_each_other_and_the_format_stays(self) -> None:
        rows = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
        options = {"temperature": 0.8, "top_k": 5, "top_p": 0.8, "min_p": 0.05}
        whole = token_distribution(rows, **options)
        assert whole.dtype == np.float32
        for place in np.ndindex(2, 3):
            np.testing.assert_array_equal(whole[place], token_distribution(rows[place], **options))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"temperature": -1.0}, "temperature is -1.0 but needs a number of at least 0"),
            ({"temperature": np.nan}, "temperature is nan but needs"),
            ({"top_k": 0}, "top_k is 0 but needs a positive integer"),
            ({"top_p": 0.0}, "top_p is 0.0 but needs a positive number"),
            ({"top_p": 1.5}, "top_p is 1.5 but needs a number of at most 1"),
            ({"min_p": -0.1}, "min_p is -0.1 but needs a number of at least 0"),
            ({"min_p": 2}, "min_p is 2 but needs a number of at most 1"),
        ],
    )
    def test_a_wrong_option_is_one_sentence(self, options: dict, sentence: str) -> None:
        with pytest.raises(ValueError, match=f"^token_distribution: {sentence}"):
            distribution(0.0, 1.0, **options)

    def test_agrees_with_the_processors_of_transformers(self) -> None:
        torch, process = pytest.importorskip("torch"), pytest.importorskip("transformers.generation.logits_process")
        logits = np.random.default_rng(1).standard_normal((20, 30)) * 3
        for temperature, top_k, top_p, min_p in itertools.product([0.5, 1.0, 2.0], [2, 8], [0.3, 0.9], [0.02, 0.4]):
            scores = torch.tensor(logits)
            for processor in (
                process.TemperatureLogitsWarper(temperature),
                process.TopKLogitsWarper(top_k),
                process.TopPLogitsWarper(top_p),
                process.MinPLogitsWarper(min_p),
            ):
                scores = processor(None, scores)
            found = token_distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
            np.testing.assert_allclose(found, scores.softmax(-1).numpy(), rtol=1e-12, atol=0)


class TestSampleToken:
    def test_r1_every_token_has_its_interval(self) -> None:
        probabilities = np.array([0.25, 0.0, 0.5, 0.25])
        uniforms = np.arange(16) / 16
        found = sample_token(np.tile(probabilities, (16, 1)), uniforms)
        assert found.tolist() == [0] * 4 + [2] * 8 + [3] * 4

    def test_r2_impossible_tokens_never_come(self) -> None:
        last = np.nextafter(1.0, 0)
        for probabilities in ([0.0, 0.3, 0.7 - 1e-9, 0.0], [0.0, 5e-324, 0.0, 0.0], [0.0, 0.1, 0.2, 0.0]):
            for uniform in (0.0, last):
                assert sample_token(np.array(probabilities), np.array(uniform)) in (1, 2)

    @pytest.mark.parametrize("uniform", [1.0, -0.1, np.nan])
    def test_a_number_outside_the_interval_is_one_sentence(self, uniform: float) -> None:
        with pytest.raises(ValueError, match=r"^sample_token: uniforms must be at least 0 and below 1$"):
            sample_token(np.array([0.5, 0.5]), np.array(uniform))


class Tables:
    """A target and a drafter of a small vocabulary as tables: the t-th [V, ..., V, V] has the distributions after t tokens."""

    def __init__(self, vocabulary: int, count: int, seed: int, *, sparse: bool = False) -> None:
        generator = np.random.default_rng(seed)

        def table(before: int) -> np.ndarray:
            rows = generator.dirichlet(np.full(vocabulary, 0.6), (vocabulary,) * before)
            if sparse:
                rows = rows * (generator.random(rows.shape) < 0.5)
                rows[..., 0] += rows.sum(axis=-1) == 0
            return rows / rows.sum(axis=-1, keepdims=True)

        self.target = [table(before) for before in range(count + 1)]
        self.draft = [table(before) for before in range(count)]

    def greedily(self) -> Tables:
        """The drafter takes its most likely token, with certainty."""
        self.draft = [(table == table.max(axis=-1, keepdims=True)).astype(float) for table in self.draft]
        return self

    def expected(self) -> np.ndarray:
        """The distribution of T + 1 tokens of the target: [V, ..., V]."""
        result = np.ones(())
        for table in self.target:
            result = result[..., None] * table
        return result

    def found(self, accept, handed=None) -> np.ndarray:
        """The distribution of T + 1 tokens when the first of them come from one round of `accept`, the rest from the target.

        Every sequence of drafts, weighed by its probability; every number that may be accepted, weighed by the measure of the
        uniforms that lead to it, which bisection finds. handed: tables that `accept` is told the drafts came from.
        """
        count, vocabulary = len(self.draft), len(self.target[0])
        drafts = np.array(list(itertools.product(range(vocabulary), repeat=count)))
        rows = [tuple(drafts[:, :t].T) for t in range(count + 1)]
        chance = np.prod([self.draft[t][(*rows[t], drafts[:, t])] for t in range(count)], axis=0)
        drafts, chance = drafts[chance > 0], chance[chance > 0]
        rows = [tuple(drafts[:, :t].T) for t in range(count + 1)]

        def along(tables: list[np.ndarray]) -> np.ndarray:
            chosen = [np.broadcast_to(table[rows[t]], (len(drafts), vocabulary)) for t, table in enumerate(tables)]
            return np.stack(chosen, axis=1)

        p, q = along(self.target), along(handed or self.draft)
        limits = np.stack([_acceptance(accept, p, q, drafts, place) for place in range(count)], axis=1)
        result = np.zeros((vocabulary,) * (count + 1))
        for kept in range(count + 1):
            weight = chance * np.prod(limits[:, :kept], axis=1) * (1 - limits[:, kept] if kept < count else 1)
            uniforms = np.zeros(drafts.shape)
            if kept < count:
                uniforms[:, kept] = np.minimum((1 + limits[:, kept]) / 2, np.nextafter(1, 0))
            _, following = accept(p, q, drafts, uniforms)
            part = np.zeros((vocabulary,) * (kept + 1))
            np.add.at(part, rows[kept], weight[:, None] * following if kept else (weight[:, None] * following).sum(axis=0))
            for table in self.target[kept + 1 :]:
                part = part[..., None] * table
            result += part
        return result

    def error(self, accept, handed=None) -> float:
        return float(np.abs(self.found(accept, handed) - self.expected()).max())


def _acceptance(accept, p: np.ndarray, q: np.ndarray, drafts: np.ndarray, place: int) -> np.ndarray:
    """With which probability the draft at `place` stands once those before it do: the uniform at which it begins to fall."""
    low, high = np.zeros(len(drafts)), np.ones(len(drafts))
    for _ in range(55):
        uniforms = np.zeros(drafts.shape)
        uniforms[:, place] = middle = np.minimum((low + high) / 2, np.nextafter(1, 0))
        stands = accept(p, q, drafts, uniforms)[0] > place
        low, high = np.where(stands, middle, low), np.where(stands, high, middle)
    return np.where(low < 1e-15, 0, np.where(high == 1, 1, low))


SIZES = [(vocabulary, count) for vocabulary in (3, 4, 5) for count in (1, 2, 3)]


class TestSpeculativeLaw:
    @pytest.mark.parametrize(("vocabulary", "count"), SIZES)
    @pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
    def test_the_text_has_the_distribution_of_the_target(self, vocabulary: int, count: int, sparse: bool) -> None:
        for seed in range(4):
            assert Tables(vocabulary, count, seed, sparse=sparse).error(speculative_accept) < 1e-12

    @pytest.mark.parametrize(("vocabulary", "count"), SIZES)
    def test_with_greedy_drafts(self, vocabulary: int, count: int) -> None:
        assert Tables(vocabulary, count, 7).greedily().error(speculative_accept) < 1e-12

    def test_a_drafter_that_is_the_target(self) -> None:
        tables = Tables(4, 3, 2)
        tables.draft = tables.target[:-1]
        assert tables.error(speculative_accept) < 1e-12
        p, draft = np.stack([tables.target[0]] * 2)[None], tables.target[0][None, None]
        for token in range(4):
            assert speculative_accept(p, draft, np.array([[token]]), np.array([[np.nextafter(1, 0)]]))[0] == [1]

    @pytest.mark.parametrize("label", RULES)
    def test_a_wrong_rule_has_another_distribution(self, label: str) -> None:
        assert max(Tables(4, 2, seed).error(RULES[label]) for seed in range(4)) > 1e-3

    def test_greedy_drafts_with_a_soft_distribution_have_another_distribution(self) -> None:
        soft = Tables(4, 2, 7).draft
        assert Tables(4, 2, 7).greedily().error(speculative_accept, handed=soft) > 1e-2

    def test_a_draft_from_another_formats_distribution_has_another_distribution(self) -> None:
        tables = Tables(4, 2, 7)
        exact = [table.astype(np.float16).astype(np.float64) for table in tables.draft]
        assert 1e-6 < tables.error(speculative_accept, handed=exact) < 1e-2


def verified(target, draft, drafts, uniforms) -> tuple[list, list]:
    accepted, following = speculative_accept(
        *(np.array([each], float) for each in (target, draft)), np.array([drafts]), np.array([uniforms])
    )
    return accepted.tolist(), following[0].tolist()


HALF = [0.5, 0.5, 0.0]


class TestSpeculativeAccept:
    def test_r1_stands_below_the_ratio_and_falls_at_it(self) -> None:
        target, draft = [[0.25, 0.25, 0.5], HALF], [HALF]
        assert verified(target, draft, [0], [np.nextafter(0.5, 0)]) == ([1], HALF)
        assert verified(target, draft, [0], [0.5]) == ([0], [0, 0, 1])

    def test_r1_the_first_that_falls_ends_the_row(self) -> None:
        target = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], HALF]
        assert verified(target, [HALF, HALF], [0, 0], [0.0, 0.0]) == ([0], [0, 1, 0])

    def test_r2_the_residual_is_of_the_place_of_the_draft_that_fell(self) -> None:
        target = [HALF, [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]]
        accepted, following = verified(target, [HALF, [0.0, 0.6, 0.4]], [0, 1], [0.9, 0.9])
        assert accepted == [1]
        close(following, [0.5, 0, 0.5])

    def test_r3_the_bonus_token_is_of_the_place_after_the_last_draft(self) -> None:
        assert verified([HALF, [0.0, 0.25, 0.75]], [HALF], [1], [0.99]) == ([1], [0, 0.25, 0.75])

    def test_r4_the_text_has_the_distribution_of_the_target(self) -> None:
        """One place, by hand: 0.5 · (1/2, 1/2) that stand, and the rest from the residual."""
        target, draft = [[0.25, 0.25, 0.5], HALF], [HALF]
        fallen = verified(target, draft, [0], [0.5])[1]
        close([0.5 * 0.5 + 0.5 * fallen[0], 0.5 * 0.5 + 0.5 * fallen[1], 0.5 * fallen[2]], target[0])

    def test_r5_impossible_tokens(self) -> None:
        assert verified([[0.0, 0.5, 0.5], HALF], [[1.0, 0.0, 0.0]], [0], [0.0])[0] == [0]
        assert verified([[0.0, 0.5, 0.5], HALF], [[0.0, 0.5, 0.5]], [0], [0.0])[0] == [0]
        assert verified([[0.5, 0.0, 0.5], HALF], [[0.0, 0.5, 0.5]], [0], [0.99])[0] == [1]

    def test_r6_a_residual_of_nothing_is_the_target(self) -> None:
        assert verified([[0.0, 0.5, 0.5], HALF], [[0.0, 0.5, 0.5]], [0], [0.5]) == ([0], [0, 0.5, 0.5])

    def test_no_drafts_leave_the_target(self) -> None:
        target = np.array([[HALF], [[0.0, 0.0, 1.0]]])
        accepted, following = speculative_accept(target, np.zeros((2, 0, 3)), np.zeros((2, 0), int), np.zeros((2, 0)))
        assert accepted.tolist() == [0, 0]
        np.testing.assert_array_equal(following, target[:, 0])

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"target": np.full((2, 2, 3), 1 / 3)}, r"target has shape \(2, 2, 3\) but 2 drafts need \(2, 3, 3\)"),
            ({"target": np.full((2, 3, 4), 1 / 4)}, r"target has shape \(2, 3, 4\) but 2 drafts need \(2, 3, 3\)"),
            ({"drafts": np.array([[0, 3], [0, 0]])}, r"drafts range from 0 to 3 but must lie in 0 .. 2"),
            ({"drafts": np.zeros((2, 2))}, "drafts has dtype float64 but needs integers"),
            ({"uniforms": np.ones((2, 2))}, "uniforms must be at least 0 and below 1"),
            ({"uniforms": np.zeros((2, 1))}, r"uniforms has shape \(2, 1\) but needs \[B, T\]"),
            ({"draft": np.zeros((2, 2, 3), np.float32)}, "draft has dtype float32 but target has float64"),
        ],
    )
    def test_a_wrong_argument_is_one_sentence(self, change: dict, sentence: str) -> None:
        arguments = {
            "target": np.full((2, 3, 3), 1 / 3),
            "draft": np.full((2, 2, 3), 1 / 3),
            "drafts": np.zeros((2, 2), int),
            "uniforms": np.zeros((2, 2)),
        }
        with pytest.raises(ValueError, match=f"^speculative_accept: {sentence}"):
            speculative_accept(*(arguments | change).values())
