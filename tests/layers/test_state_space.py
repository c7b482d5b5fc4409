"""The selective state space against its recurrence written out, and against linear attention."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import gated_linear_attention, ssd, ssd_chunked
from refimpl.numerics import low_precision, plain
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16
B, T, G, H, K, J = 2, 5, 2, 4, 3, 6


def inputs(length: int = T) -> dict[str, np.ndarray]:
    return {
        "x": normal(B, length, H, J),
        "dt": np.exp(normal(B, length, H, seed=1)),
        "a": -np.exp(normal(H, seed=2)),
        "b": normal(B, length, G, K, seed=3),
        "c": normal(B, length, G, K, seed=4),
    }


def test_it_is_the_recurrence() -> None:
    given, d, state = inputs(), normal(H, seed=5), normal(B, H, K, J, seed=6)
    y, after = ssd(**given, d=d, state=state)
    S = state.copy()
    for row, h, t in product(range(B), range(H), range(T)):
        x, dt = given["x"][row, t, h], given["dt"][row, t, h]
        b, c = (given[name][row, t, h // (H // G)] for name in "bc")
        for k, j in product(range(K), range(J)):
            S[row, h, k, j] = math.exp(dt * given["a"][h]) * S[row, h, k, j] + dt * b[k] * x[j]
        expected = [sum(c[k] * S[row, h, k, j] for k in range(K)) + d[h] * x[j] for j in range(J)]
        np.testing.assert_allclose(y[row, t, h], expected, atol=1e-13)
    np.testing.assert_allclose(after, S, atol=1e-13)


def test_r1_it_is_gated_linear_attention() -> None:
    given = inputs()
    v, g = given["x"] * given["dt"][..., None], given["dt"] * given["a"]
    for ours, theirs in zip(ssd(**given), gated_linear_attention(given["c"], given["b"], v, g, scale=1.0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_r2_steps_and_rates_are_taken_as_they_are() -> None:
    given, state = inputs(), normal(B, H, K, J, seed=6)
    given["dt"] = np.zeros_like(given["dt"])  # a softplus would make a step of it
    y, after = ssd(**given, state=state)
    np.testing.assert_array_equal(after, state)
    held = state.reshape(B, G, H // G, K, J)
    np.testing.assert_allclose(y.reshape(B, T, G, H // G, J), np.einsum("BGRKJ,BTGK->BTGRJ", held, given["c"]), atol=1e-13)


def test_r3_padding_gives_nothing_not_even_the_skip() -> None:
    given, d = inputs(), normal(H, seed=5)
    order = np.array([[-1, 0, 1, -1, 2], [0, 1, -1, -1, -1]])
    given["x"][order < 0] = np.nan
    y, state = ssd(**given, d=d, order=order)
    np.testing.assert_array_equal(y[order < 0], 0)
    for row in range(B):
        real = order[row] >= 0
        kept = {name: array if name == "a" else array[row : row + 1, real] for name, array in given.items()}
        alone, last = ssd(**kept, d=d)
        np.testing.assert_array_equal(y[row, real], alone[0])
        np.testing.assert_array_equal(state[row], last[0])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 64])
def test_chunked_is_recurrent_at_every_length(size: int) -> None:
    given, d, state = inputs(70), normal(H, seed=5), normal(B, H, K, J, seed=6)
    for length in range(1, 71):
        part = {name: array if name == "a" else array[:, :length] for name, array in given.items()}
        for ours, theirs in zip(
            ssd_chunked(**part, d=d, state=state, chunk_size=size), ssd(**part, d=d, state=state), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_state_and_the_steps_stay_in_float32() -> None:
    given = {name: np.float32(array) for name, array in inputs().items()}
    narrow = {name: array if name in ("dt", "a") else low_precision(array, BF16) for name, array in given.items()}
    y, state = ssd(**narrow)
    expected, last = ssd(**{name: plain(array) for name, array in narrow.items()})
    np.testing.assert_array_equal(plain(y), expected.astype(BF16).astype(np.float32))
    np.testing.assert_array_equal(state, last)
    assert type(state) is np.ndarray


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dt": np.zeros((B, T))}, r"dt has shape \(2, 5\) but needs"),
    ({"a": np.zeros(K)}, r"a has shape \(3,\) but needs"),
    ({"c": np.zeros((B, T, G, J))}, r"c has shape \(2, 5, 2, 6\) but needs"),
    ({"d": np.zeros(J)}, r"d has shape \(6,\) but needs"),
    ({"state": np.zeros((B, H, J, K))}, r"state has shape \(2, 4, 6, 3\) but needs"),
    ({"order": np.zeros((B, T))}, r"order has dtype float64 but needs"),
    ({"b": np.zeros((B, T, 3, K)), "c": np.zeros((B, T, 3, K))}, r"x has 4 heads, which the 3 heads of b do not divide"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_a_wrong_call_ends_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"ssd: {sentence}"):
        ssd(**{**inputs(), **change})
    with pytest.raises(ValueError, match=f"ssd_chunked: {sentence}"):
        ssd_chunked(**{**inputs(), **change}, chunk_size=2)
