"""The ring against a loop that keeps the last tokens of each row in a dictionary."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl.layers import attention, ring_append, ring_order, token_order
from refimpl.numerics import LowPrecision, low_precision, plain
from tests.tiny import normal

MASKS = st.integers(1, 12).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 1), min_size=length, max_size=length), min_size=1, max_size=3)
)


def ring_of(mask: list[list[int]], window: int) -> list[dict[int, int]]:
    """For each row: slot -> column of the token that it holds, written one token after the other."""
    rings: list[dict[int, int]] = []
    for row in mask:
        ring: dict[int, int] = {}
        seen = 0
        for column, real in enumerate(row):
            if real:
                ring[seen % window] = column
                seen += 1
        rings.append(ring)
    return rings


def append_pieces(new: np.ndarray, order: np.ndarray, window: int, cuts: list[int]) -> np.ndarray:
    """The ring after the tokens came in pieces that end at `cuts` and at the last token."""
    ring = None
    for start, stop in pairwise([0, *cuts, new.shape[1]]):
        ring = ring_append(new[:, start:stop], order[:, :stop], ring, window=window)
    assert ring is not None
    return ring


class TestRingOrder:
    @given(MASKS, st.integers(1, 14))
    def test_equals_the_loop(self, mask: list[list[int]], window: int) -> None:
        order = token_order(np.array(mask))
        expected = [
            [int(order[row, ring[slot]]) if slot in ring else -1 for slot in range(min(len(mask[row]), window))]
            for row, ring in enumerate(ring_of(mask, window))
        ]
        places = ring_order(order, window=window)
        assert places.tolist() == expected
        assert places.dtype == np.int64

    def test_r1_a_ring_grows_to_the_window_and_no_further(self) -> None:
        assert [ring_order(np.arange(length)[None], window=3).shape[1] for length in (0, 1, 2, 3, 4, 100)] == [0, 1, 2, 3, 3, 3]
        assert ring_order(np.array([[-1, -1, 0]]), window=5).tolist() == [[0, -1, -1]]

    def test_r1_the_slots_of_seven_tokens(self) -> None:
        assert ring_order(np.arange(7)[None], window=4).tolist() == [[4, 5, 6, 3]]

    @given(MASKS, st.integers(1, 5), st.sampled_from(["window", "chunk"]))
    def test_r2_attention_over_the_ring_at_its_places_equals_attention_over_all(self, mask, window: int, kind: str) -> None:
        order = token_order(np.array(mask))
        k, v = normal(*order.shape, 1, 4), normal(*order.shape, 1, 3, seed=1)
        q, q_order = normal(len(mask), 1, 2, 4, seed=2), np.maximum(order.max(axis=1, keepdims=True), 0)
        kept = [ring_append(new, order, window=window) for new in (k, v)]
        options = {"scale": 1.0, "q_order": q_order, kind: window}
        found = attention(q, *kept, k_order=ring_order(order, window=window), **options)
        np.testing.assert_allclose(found, attention(q, k, v, k_order=order, **options), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
    def test_places_of_any_integer_format(self, kind) -> None:
        order = np.arange(6)[None]
        np.testing.assert_array_equal(ring_order(order.astype(kind), window=200), ring_order(order, window=200))


class TestRingAppend:
    @given(MASKS, st.integers(1, 14), st.data())
    def test_equals_the_loop_for_pieces_of_any_lengths(self, mask, window: int, data: st.DataObject) -> None:
        order = token_order(np.array(mask))
        cuts = (
            sorted(data.draw(st.sets(st.integers(1, max(1, order.shape[1] - 1))), label="cuts")) if order.shape[1] > 1 else []
        )
        new = normal(*order.shape, 2, 3)
        ring = append_pieces(new, order, window, cuts)
        expected = np.zeros((len(mask), min(order.shape[1], window), 2, 3))
        for row, slots in enumerate(ring_of(mask, window)):
            for slot, column in slots.items():
                expected[row, slot] = new[row, column]
        np.testing.assert_array_equal(ring, expected)

    @given(MASKS, st.integers(1, 5), st.integers(0, 6), st.sampled_from(["window", "chunk"]), st.data())
    @example(mask=[[1] * 9], window=4, more=3, kind="window", data=None)
    def test_r1_attention_over_ring_and_new_tokens_equals_attention_over_all(
        self, mask, window: int, more: int, kind: str, data: st.DataObject | None
    ) -> None:
        row = st.lists(st.integers(0, 1), min_size=more, max_size=more)
        whole = [old + (data.draw(row, label="new tokens") if data else [1] * more) for old in mask]
        order, past = token_order(np.array(whole)), len(mask[0])
        k, v = normal(*order.shape, 1, 4), normal(*order.shape, 1, 3, seed=1)
        q = normal(len(mask), more, 2, 4, seed=2)
        keys, values = (
            np.concatenate([ring_append(x[:, :past], order[:, :past], window=window), x[:, past:]], axis=1) for x in (k, v)
        )
        k_order = np.concatenate([ring_order(order[:, :past], window=window), order[:, past:]], axis=1)
        options = {"scale": 1.0, "q_order": order[:, past:], kind: window}
        found = attention(q, keys, values, k_order=k_order, **options)
        np.testing.assert_allclose(found, attention(q, k, v, k_order=order, **options), rtol=1e-12, atol=1e-13)

    def test_r2_padding_is_not_written(self) -> None:
        order = np.array([[0, -1, 1, -1, -1, 2], [-1, -1, -1, -1, -1, -1]])
        new = np.arange(1.0, 13.0).reshape(2, 6, 1)
        assert ring_append(new, order, window=2)[..., 0].tolist() == [[6, 3], [0, 0]]

    def test_r3_a_slot_that_nothing_was_written_into_is_0(self) -> None:
        ring = ring_append(np.full((1, 3, 2), np.nan), np.array([[-1, -1, -1]]), window=5)
        assert ring.tolist() == [[[0, 0]] * 3]

    @pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 20])
    def test_r4_pieces_of_any_lengths_leave_the_same_ring(self, window: int) -> None:
        order = np.stack([np.arange(9), np.array([-1, -1, 0, 1, 2, -1, 3, 4, 5])])
        new = normal(2, 9, 3)
        whole = ring_append(new, order, window=window)
        for bits in range(2**8):
            cuts = [cut for cut in range(1, 9) if bits >> (cut - 1) & 1]
            np.testing.assert_array_equal(append_pieces(new, order, window, cuts), whole)

    def test_the_slot_is_the_place_modulo_the_window(self) -> None:
        ring = ring_append(np.arange(10.0, 17.0).reshape(1, 7, 1), np.arange(7)[None], window=4)
        assert ring[0, :, 0].tolist() == [14, 15, 16, 13]

    def test_the_old_ring_and_the_new_tokens_stay_as_they_were(self) -> None:
        order, new = np.arange(5)[None], normal(1, 5, 2)
        ring = ring_append(new[:, :3], order[:, :3], window=3)
        before = ring.copy(), new.copy()
        ring_append(new[:, 3:], order, ring, window=3)
        np.testing.assert_array_equal(ring, before[0])
        np.testing.assert_array_equal(new, before[1])

    def test_memory_does_not_grow_beyond_the_window(self) -> None:
        order, ring = np.arange(50)[None], None
        for t in range(50):
            ring = ring_append(np.full((1, 1, 4), t, np.float32), order[:, : t + 1], ring, window=6)
            assert ring.base is None or ring.base.nbytes <= 6 * 4 * 4
            assert ring.nbytes == min(t + 1, 6) * 4 * 4

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.dtype(ml_dtypes.bfloat16)])
    def test_any_format_is_copied_as_it_is(self, dtype) -> None:
        new = np.arange(6).reshape(1, 6, 1).astype(dtype)
        ring = ring_append(new[:, 2:], np.arange(6)[None], ring_append(new[:, :2], np.arange(2)[None], window=4), window=4)
        assert ring.dtype == dtype
        assert ring[0, :, 0].astype(int).tolist() == [4, 5, 2, 3]

    def test_low_precision_stays_what_it_is(self) -> None:
        new, order = low_precision(normal(1, 5, 2), ml_dtypes.bfloat16), np.arange(5)[None]
        ring = ring_append(new[:, :3], order[:, :3], window=2)
        for found, last in ((ring, 3), (ring_append(new[:, 3:], order, ring, window=2), 5)):
            assert isinstance(found, LowPrecision)
            assert found.precision == ml_dtypes.bfloat16
            kept = plain(new)[0, last - 2 : last]
            np.testing.assert_array_equal(np.sort(plain(found)[0], axis=0), np.sort(kept, axis=0))

    @pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
    @pytest.mark.parametrize("window", [2, 200])
    def test_places_of_any_integer_format(self, kind, window: int) -> None:
        order, new = np.arange(6)[None], normal(1, 6, 2)
        found = ring_append(new, order.astype(kind), window=window)
        np.testing.assert_array_equal(found, ring_append(new, order, window=window))

    @pytest.mark.parametrize("window", [1, 3])
    def test_a_piece_without_tokens_changes_nothing(self, window: int) -> None:
        order, new = np.arange(4)[None], normal(1, 4, 2)
        ring = ring_append(new, order, window=window)
        np.testing.assert_array_equal(ring_append(new[:, :0], order, ring, window=window), ring)
        assert ring_append(new[:, :0], order[:, :0], window=window).shape == (1, 0, 2)


class TestBadInput:
    @pytest.mark.parametrize(
        "function", [ring_order, lambda order, window: ring_append(np.ones((1, 2, 3)), order, window=window)]
    )
    @pytest.mark.parametrize(
        ("order", "window", "message"),
        [
            (np.zeros(2, int), 2, r"order has shape \(2,\) but needs \[B, S\]"),
            (np.zeros((1, 2)), 2, "order has dtype float64 but needs integers"),
            ([[0, 1]], 2, r"order is a list but needs a NumPy array of shape \[B, S\]"),
            (np.zeros((1, 2), int), 0, "window is 0 but needs a positive integer"),
            (np.zeros((1, 2), int), 2.0, "window is 2.0 but needs a positive integer"),
            (np.zeros((1, 2), int), None, "window is None but needs a positive integer"),
        ],
    )
    def test_order_and_window(self, function, order, window, message: str) -> None:
        with pytest.raises(ValueError, match=f"^ring_(order|append): {message}$"):
            function(order, window=window)

    @pytest.mark.parametrize("shape", [(2,), (1, 2, 3), (2, 6, 3)])
    def test_new_tokens_that_the_order_does_not_have(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"^ring_append: new has shape .* but needs \[2, T, ...\] with T of at most 5$"):
            ring_append(np.ones(shape), np.zeros((2, 5), int), window=3)

    @pytest.mark.parametrize("shape", [None, (2, 4, 3), (2, 2, 3), (1, 3, 3), (2, 3), (2, 3, 4)])
    def test_a_ring_of_another_length_or_entry(self, shape: tuple[int, ...] | None) -> None:
        ring = None if shape is None else np.ones(shape)
        message = r"^ring_append: ring has shape .* but 4 earlier tokens need \(2, 3, 3\)$"
        with pytest.raises(ValueError, match=message):
            ring_append(np.ones((2, 1, 3)), np.tile(np.arange(5), (2, 1)), ring, window=3)
