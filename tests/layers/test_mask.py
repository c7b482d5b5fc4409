"""Masks and places by loops over pairs of places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import attention_mask, causal_mask, chunked_mask, padding_mask, sliding_window_mask, token_order
from tests import loops

# Any order, with gaps, repetitions and several kinds of padding.
PLACES = st.lists(st.integers(-2, 12), min_size=0, max_size=7)


def pair(q: list[int], k: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([q], dtype=np.int64).reshape(1, -1), np.array([k], dtype=np.int64).reshape(1, -1)


def by_loops(q: list[int], k: list[int], **masking) -> list[list[bool]]:
    return [[loops.visible(i, j, **masking) for j in k] for i in q]


class TestPaddingMask:
    @given(q=PLACES, k=PLACES)
    def test_r1_padding_sees_nothing_and_is_seen_by_nothing(self, q: list[int], k: list[int]) -> None:
        assert padding_mask(*pair(q, k))[0].tolist() == [[i >= 0 and j >= 0 for j in k] for i in q]

    def test_rows_are_masked_alone(self) -> None:
        q, k = np.array([[0], [1]]), np.array([[0, -1], [-1, 1]])
        assert padding_mask(q, k).tolist() == [[[True, False]], [[False, True]]]


class TestCausalMask:
    def test_r1_the_last_query_sees_the_last_key(self) -> None:
        seen = causal_mask(*pair([3, 4], [0, 1, 2, 3, 4]))[0]
        assert seen.tolist() == [[True, True, True, True, False], [True] * 5]

    @given(q=PLACES, k=PLACES)
    def test_r1_follows_places_not_columns(self, q: list[int], k: list[int]) -> None:
        assert causal_mask(*pair(q, k))[0].tolist() == [[j <= i for j in k] for i in q]


class TestSlidingWindowMask:
    @pytest.mark.parametrize("window", [1, 2, 3, 7])
    def test_r1_exactly_window_keys_are_visible(self, window: int) -> None:
        seen = sliding_window_mask(*pair([10], list(range(20))), window=window)[0, 0]
        assert np.flatnonzero(seen).tolist() == list(range(11 - window, 11))

    @pytest.mark.parametrize("window", [5, 6, 1000])
    def test_r2_a_window_of_the_length_changes_nothing(self, window: int) -> None:
        q, k = pair([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
        np.testing.assert_array_equal(sliding_window_mask(q, k, window=window), causal_mask(q, k))

    @pytest.mark.parametrize("kind", ["int8", "int32", "uint8", "uint32", "uint64"])
    def test_r1_holds_in_every_integer_format(self, kind: str) -> None:
        q, k = (array.astype(kind) for array in pair([1, 2], [0, 1, 2]))
        assert sliding_window_mask(q, k, window=5)[0].tolist() == [[True, True, False], [True, True, True]]


class TestChunkedMask:
    def test_r1_chunks_begin_at_multiples_of_the_chunk(self) -> None:
        seen = chunked_mask(*pair([2, 3, 5], list(range(7))), chunk=3)[0]
        assert [np.flatnonzero(row).tolist() for row in seen] == [[0, 1, 2], [3], [3, 4, 5]]

    def test_r1_padding_on_the_left_does_not_move_the_borders(self) -> None:
        padded = token_order(np.array([[0, 0, 1, 1, 1, 1, 1]]))
        plain = np.arange(5)[None]
        np.testing.assert_array_equal(attention_mask(padded, padded, chunk=2)[:, 2:, 2:], attention_mask(plain, plain, chunk=2))


class TestAttentionMask:
    @given(
        q=PLACES,
        k=PLACES,
        causal=st.booleans(),
        window=st.none() | st.integers(1, 5),
        chunk=st.none() | st.integers(1, 5),
    )
    def test_r1_is_the_conjunction(self, q: list[int], k: list[int], causal: bool, window, chunk) -> None:
        causal = causal or window is not None or chunk is not None
        masking = {"causal": causal, "window": window, "chunk": chunk}
        assert attention_mask(*pair(q, k), **masking)[0].tolist() == by_loops(q, k, **masking)

    @pytest.mark.parametrize("option", [{"window": 2}, {"chunk": 2}])
    def test_r1_a_window_without_causality_is_an_error(self, option: dict) -> None:
        with pytest.raises(ValueError, match="attention_mask: window and chunk are defined for causal attention"):
            attention_mask(*pair([0], [0]), causal=False, **option)


class TestTokenOrder:
    @given(st.lists(st.integers(0, 1), min_size=0, max_size=9), st.integers(1, 2))
    def test_r1_padding_may_stand_anywhere(self, mask: list[int], rows: int) -> None:
        expected, real = [], 0
        for bit in mask:
            expected.append(real if bit else -1)
            real += bit
        array = np.array([mask] * rows, dtype=np.int64).reshape(rows, -1)
        assert token_order(array).tolist() == [expected] * rows

    @pytest.mark.parametrize("kind", [bool, np.int8, np.int64, np.uint8])
    def test_r1_left_right_and_between(self, kind: type) -> None:
        order = token_order(np.array([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=kind))
        assert order.tolist() == [[-1, -1, 0, 1], [0, 1, -1, -1], [0, -1, 1, -1]]
        assert order.dtype == np.int64

    @pytest.mark.parametrize("mask", [[[1, 2, 1]], [[1, -1]], [[1.0, 0.5]]])
    def test_a_mask_that_is_not_zero_or_one_is_an_error(self, mask: list) -> None:
        with pytest.raises(ValueError, match=r"token_order: attention_mask .* but needs"):
            token_order(np.array(mask))


@pytest.mark.parametrize(
    ("mask", "options"),
    [(padding_mask, {}), (causal_mask, {}), (sliding_window_mask, {"window": 2}), (chunked_mask, {"chunk": 2})],
)
class TestBadInput:
    def test_wrong_number_of_axes(self, mask, options: dict) -> None:
        with pytest.raises(ValueError, match=rf"{mask.__name__}: q_order has shape \(2,\) but needs \[B, T\]"):
            mask(np.arange(2), np.arange(2)[None], **options)

    def test_rows_that_do_not_match(self, mask, options: dict) -> None:
        with pytest.raises(ValueError, match=r"k_order has shape \(2, 1\) but needs \[B, S\] with B = 1 as in q_order"):
            mask(np.array([[1]]), np.array([[1], [2]]), **options)

    def test_places_that_are_not_integers(self, mask, options: dict) -> None:
        with pytest.raises(ValueError, match=f"{mask.__name__}: q_order has dtype float64 but needs integers"):
            mask(np.array([[1.0]]), np.array([[1]]), **options)


@pytest.mark.parametrize("size", [0, -1, 1.5, "3"])
def test_a_window_or_chunk_must_be_a_positive_integer(size) -> None:
    with pytest.raises(ValueError, match=rf"window is {size!r} but needs a positive integer"):
        sliding_window_mask(*pair([0], [0]), window=size)
    with pytest.raises(ValueError, match=rf"chunk is {size!r} but needs a positive integer"):
        chunked_mask(*pair([0], [0]), chunk=size)
