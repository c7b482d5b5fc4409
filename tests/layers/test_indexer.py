"""The indexer by loops over heads, queries and keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import attention, index_scores, key_selection
from refimpl.numerics import low_precision
from tests import loops

KEPT, LEFT = 0.0, -np.inf
PLACES = st.lists(st.integers(0, 12), min_size=1, max_size=7, unique=True)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def kept(scores: np.ndarray, **options) -> list[list[int]]:
    """The columns that each query of the first row keeps."""
    return [np.flatnonzero(row == KEPT).tolist() for row in key_selection(scores, **options)[0, 0]]


def selected_by_loops(scores, q_place: int, k_places, top_k: int, *, causal: bool = True) -> set[int]:
    """One key after the other, each the best of those that are left."""
    left = [s for s, place in enumerate(k_places) if loops.visible(q_place, place, causal=causal)]
    found: set[int] = set()
    while left and len(found) < top_k:
        best = min(left, key=lambda s: (-scores[s], k_places[s]))
        found.add(best)
        left.remove(best)
    return found


class TestIndexScores:
    def test_by_loops(self) -> None:
        q, k, weights = normal(2, 3, 5, 4), normal(2, 7, 4), normal(2, 3, 5)
        scores = index_scores(q, k, weights, scale=0.3)
        assert scores.shape == (2, 3, 7)
        for b, t, s in np.ndindex(scores.shape):
            products = [0.3 * float(q[b, t, h] @ k[b, s]) for h in range(5)]
            expected = sum(weights[b, t, h] * product for h, product in enumerate(products) if product > 0)
            assert scores[b, t, s] == pytest.approx(expected, abs=1e-14)

    def test_r1_each_product_is_rectified_and_then_weighted(self) -> None:
        q, k = np.array([[[[1.0], [-1.0], [2.0]]]]), np.array([[[3.0], [-3.0]]])
        weights = np.array([[[10.0, 100.0, -1000.0]]])
        assert index_scores(q, k, weights, scale=1.0).tolist() == [[[30.0 - 6000.0, 300.0]]]

    def test_r2_the_sum_is_not_divided_by_the_heads(self) -> None:
        q, k, weights = np.ones((1, 1, 6, 4)), np.ones((1, 2, 4)), np.ones((1, 1, 6))
        assert index_scores(q, k, weights, scale=0.5).tolist() == [[[12.0, 12.0]]]

    def test_r3_a_score_is_that_of_one_query_and_one_key(self) -> None:
        q, k, weights = normal(2, 3, 5, 4), normal(2, 7, 4), normal(2, 3, 5)
        scores = index_scores(q, k, weights, scale=0.3)
        alone = index_scores(q[:, 1:2], k[:, 6:], weights[:, 1:2], scale=0.3)
        np.testing.assert_allclose(alone[:, 0, 0], scores[:, 1, 6], rtol=1e-13)

    def test_t1_in_a_narrow_format_only_the_result_is_rounded(self) -> None:
        q, k, weights = (low_precision(array, "float16") for array in (normal(1, 3, 5, 4), normal(1, 7, 4), normal(1, 3, 5)))
        wide = index_scores(*(np.asarray(array) for array in (q, k, weights)), scale=0.3)
        assert np.array_equal(index_scores(q, k, weights, scale=0.3), wide.astype(np.float16).astype(np.float32))
        assert not np.array_equal(wide, wide.astype(np.float16).astype(np.float32))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"q": np.ones((1, 3, 4))}, r"q has shape \(1, 3, 4\) but needs \[B, T, H, K\]"),
            ({"k": np.ones((1, 7, 5))}, r"k has shape \(1, 7, 5\) but needs \[B, S, K\] with K = 4 as in q"),
            ({"weights": np.ones((1, 3, 6))}, r"weights has shape \(1, 3, 6\) but needs \[B, T, H\] with H = 5 as in q"),
            ({"k": np.ones((1, 7, 4), np.float32)}, "k has dtype float32 but q has float64"),
            ({"scale": 0.0}, r"scale is 0.0 but needs a positive number"),
        ],
    )
    def test_wrong_arguments(self, change: dict, words: str) -> None:
        arguments = {"q": np.ones((1, 3, 5, 4)), "k": np.ones((1, 7, 4)), "weights": np.ones((1, 3, 5)), "scale": 0.5}
        arguments |= change
        scale = arguments.pop("scale")
        with pytest.raises(ValueError, match=f"^index_scores: {words}"):
            index_scores(*arguments.values(), scale=scale)


class TestKeySelection:
    @given(
        places=PLACES,
        padding=st.integers(0, 2),
        top_k=st.integers(1, 9),
        causal=st.booleans(),
        levels=st.integers(1, 9),
        seed=st.integers(0, 99),
    )
    def test_by_loops(self, places, padding: int, top_k: int, causal: bool, levels: int, seed: int) -> None:
        """Places in any order, with padding between, and scores of which many are equal."""
        generator = np.random.default_rng(seed)
        k_places = generator.permutation(places + [-1] * padding)
        scores = generator.integers(0, levels, (1, 3, len(k_places))) - 4.0
        q_places = np.array([[-1, generator.integers(13), 12]])
        selection = key_selection(scores, top_k=top_k, causal=causal, q_order=q_places, k_order=k_places[None])
        assert selection.shape == (1, 1, *scores.shape[1:])
        assert set(np.unique(selection)) <= {KEPT, LEFT}
        for t, q_place in enumerate(q_places[0]):
            expected = selected_by_loops(scores[0, t], q_place, k_places, top_k, causal=causal)
            assert set(np.flatnonzero(selection[0, 0, t] == KEPT)) == expected

    def test_r1_later_keys_and_padding_are_not_chosen_among(self) -> None:
        scores = np.array([[[5.0, 1.0, 2.0, 9.0, 8.0], [5.0, 1.0, 2.0, 9.0, 8.0]]])
        k_order = np.array([[-1, 0, 1, 2, 3]])
        assert kept(scores, top_k=2, q_order=np.array([[1, 2]]), k_order=k_order) == [[1, 2], [2, 3]]
        options = {"causal": False, "q_order": np.array([[1, -1]]), "k_order": k_order}
        assert kept(scores, top_k=2, **options) == [[3, 4], []]

    @pytest.mark.parametrize("top_k", [4, 5, 2048])
    def test_r2_at_most_top_k_keys_are_all_kept(self, top_k: int) -> None:
        scores = np.full((1, 4, 4), -1e300)
        scores[0, :, 0] = -np.inf
        assert kept(scores, top_k=top_k) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]

    def test_r3_of_equal_scores_the_lowest_place_is_chosen(self) -> None:
        assert kept(np.zeros((1, 1, 5)), top_k=2) == [[0, 1]]
        assert kept(np.array([[[1.0, 2.0, 1.0, 2.0, 1.0]]]), top_k=3) == [[0, 1, 3]]
        assert kept(np.array([[[0.0, -0.0, 0.0]]]), top_k=2) == [[0, 1]]

    def test_r4_the_lowest_place_whatever_its_column(self) -> None:
        k_order = np.array([[3, 0, 4, 2, 1]])
        assert kept(np.zeros((1, 1, 5)), top_k=2, q_order=np.array([[4]]), k_order=k_order) == [[1, 4]]

    def test_r5_a_query_without_keys_keeps_none(self) -> None:
        options = {"q_order": np.array([[2]]), "k_order": np.array([[-1, -1, 7]])}
        assert kept(np.ones((1, 1, 3)), top_k=3, **options) == [[]]

    def test_t1_the_bias_has_the_dtype_of_the_scores(self) -> None:
        for dtype in (np.float32, np.float64):
            assert key_selection(np.ones((1, 2, 3), dtype), top_k=1).dtype == dtype

    def test_attention_to_it_is_attention_to_the_kept_keys(self) -> None:
        q, k, v = normal(2, 1, 6, 8), normal(2, 9, 2, 8), normal(2, 9, 2, 7)
        scores = normal(2, 1, 9)
        bias = key_selection(scores, top_k=4)
        for row in range(2):
            few = np.flatnonzero(bias[row, 0, 0] == KEPT)
            expected = attention(q[row : row + 1], k[row : row + 1, few], v[row : row + 1, few], scale=0.3)
            found = attention(q, k, v, scale=0.3, bias=bias)[row : row + 1]
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize(
        ("scores", "options", "words"),
        [
            (np.ones((3, 4)), {}, r"scores has shape \(3, 4\) but needs \[B, T, S\]"),
            (np.ones((1, 3, 4), int), {}, "scores has dtype int64 but needs float64 or float32"),
            (np.ones((1, 3, 4)), {"top_k": 0}, "top_k is 0 but needs a positive integer"),
            (
                np.ones((1, 3, 4)),
                {"k_order": np.zeros((1, 5), int)},
                r"k_order has shape \(1, 5\) but needs \[B, S\] with S = 4",
            ),
            (np.ones((1, 3, 4)), {"q_order": np.zeros((1, 3))}, "q_order has dtype float64 but needs integers"),
            (np.ones((1, 5, 4)), {}, "5 queries but 4 keys: without q_order and k_order the queries are the last keys"),
        ],
    )
    def test_wrong_arguments(self, scores: np.ndarray, options: dict, words: str) -> None:
        with pytest.raises(ValueError, match=f"^key_selection: {words}"):
            key_selection(scores, **{"top_k": 2, **options})
