"""The causal convolution against sums written out."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import causal_conv1d
from refimpl.numerics import low_precision, plain
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16
B, T, D, W = 2, 7, 5, 4


def by_hand(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One number at a time; past [B, D, W-1]."""
    taps = weight.shape[1]
    y = np.zeros(x.shape)
    seen = [[[*past[b, d], *x[b, :, d]] for d in range(x.shape[2])] for b in range(len(x))]
    for b, t, d in np.ndindex(*x.shape):
        y[b, t, d] = bias[d] + sum(weight[d, w] * seen[b][d][t + w] for w in range(taps))
    state = [[row[len(row) - (taps - 1) :] for row in rows] for rows in seen]
    return y, np.array(state).reshape(*past.shape)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("from_before", [False, True])
def test_it_is_the_sum_over_taps(width: int, length: int, from_before: bool) -> None:
    x, weight, bias = normal(B, length, D), normal(D, width, seed=1), normal(D, seed=2)
    past = normal(B, D, width - 1, seed=3) * from_before
    found = causal_conv1d(x, weight, bias, past if from_before else None)
    for ours, expected in zip(found, by_hand(x, weight, bias, past), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-14)


def test_r1_the_last_tap_multiplies_the_current_token() -> None:
    x = np.array([1.0, 0, 0, 0, 0]).reshape(1, 5, 1)
    y, _ = causal_conv1d(x, np.array([[2.0, 3.0, 5.0]]))
    assert y[0, :, 0].tolist() == [5, 3, 2, 0, 0]


def test_r2_before_the_first_token_there_are_zeros() -> None:
    x, weight = normal(B, T, D), normal(D, W, seed=1)
    zeros = np.zeros((B, D, W - 1))
    np.testing.assert_array_equal(causal_conv1d(x, weight)[0], causal_conv1d(x, weight, state=zeros)[0])
    np.testing.assert_allclose(causal_conv1d(x, weight)[0][:, 0], x[:, 0] * weight[:, -1], rtol=1e-14)


def test_r3_the_state_holds_inputs_oldest_first_and_zeros_before_them() -> None:
    x = np.array([7.0, 8.0]).reshape(1, 2, 1)
    assert causal_conv1d(x, np.ones((1, 4)))[1][0, 0].tolist() == [0, 7, 8]
    assert causal_conv1d(x, np.ones((1, 2)))[1][0, 0].tolist() == [8]
    assert causal_conv1d(x, np.ones((1, 1)))[1].shape == (1, 1, 0)


@pytest.mark.parametrize(
    "places",
    [[-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, -1, -1], [0, -1, 1, -1, -1, 2, 3], [-1, -1, -1, -1, -1, -1, 0], [-1] * 7],
)
@pytest.mark.parametrize("from_before", [False, True])
def test_r4_padding_is_passed_over(places: list[int], from_before: bool) -> None:
    x, weight, bias = normal(B, T, D), normal(D, W, seed=1), normal(D, seed=2)
    past = normal(B, D, W - 1, seed=3) if from_before else None
    real = np.array(places) >= 0
    x[:, ~real] = np.nan
    y, state = causal_conv1d(x, weight, bias, past, np.array([places] * B))
    expected, last = causal_conv1d(x[:, real], weight, bias, past)
    np.testing.assert_array_equal(y[:, real], expected)
    np.testing.assert_array_equal(y[:, ~real], 0)
    np.testing.assert_array_equal(state, last)


def test_r4_each_row_has_its_own_padding() -> None:
    x, weight, order = normal(B, T, D), normal(D, W, seed=1), np.array([[-1, 0, 1, -1, 2, 3, 4], [0, 1, 2, 3, 4, 5, -1]])
    y, state = causal_conv1d(x, weight, order=order)
    for row in range(B):
        alone, last = causal_conv1d(x[row : row + 1], weight, order=order[row : row + 1])
        np.testing.assert_array_equal(y[row : row + 1], alone)
        np.testing.assert_array_equal(state[row : row + 1], last)


def test_r5_pieces_of_any_lengths_give_the_whole() -> None:
    x, weight, past = normal(B, T, D), normal(D, W, seed=1), normal(B, D, W - 1, seed=2)
    whole, last = causal_conv1d(x, weight, state=past)
    for cut in range(1, T):
        first, between = causal_conv1d(x[:, :cut], weight, state=past)
        second, after = causal_conv1d(x[:, cut:], weight, state=between)
        np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
        np.testing.assert_array_equal(after, last)


def test_t1_products_accumulate_in_float32_and_the_state_is_not_touched() -> None:
    arrays = [low_precision(normal(*shape, seed=seed), BF16) for seed, shape in enumerate([(B, T, D), (D, W), (D,)])]
    y, state = causal_conv1d(*arrays)
    expected, last = causal_conv1d(*map(plain, arrays))
    np.testing.assert_array_equal(plain(y), expected.astype(BF16).astype(np.float32))
    np.testing.assert_array_equal(plain(state), last)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"x": np.zeros((B, T))}, r"x has shape \(2, 7\) but needs"),
    ({"weight": np.zeros((W, D))}, r"weight has shape \(4, 5\) but needs"),
    ({"bias": np.zeros(W)}, r"bias has shape \(4,\) but needs"),
    ({"state": np.zeros((B, D, W))}, r"state has shape \(2, 5, 4\) but needs \(2, 5, 3\), one less than the taps"),
    ({"state": np.zeros((B, W - 1, D))}, r"state has shape \(2, 3, 5\) but needs"),
    ({"order": np.zeros((B, T - 1), int)}, r"order has shape \(2, 6\) but needs"),
    ({"order": np.zeros((B, T))}, r"order has dtype float64 but needs"),
    ({"weight": np.zeros((D, W), np.float32)}, r"weight has dtype float32 but"),
    ({"x": np.zeros((B, T, D), int)}, r"x has dtype int64 but needs"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_a_wrong_call_ends_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    given = {"x": np.zeros((B, T, D)), "weight": np.zeros((D, W))}
    with pytest.raises(ValueError, match=f"causal_conv1d: {sentence}"):
        causal_conv1d(**{**given, **change})
