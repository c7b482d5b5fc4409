"""Attention against a loop over batch, query, head and key, and its online form against itself."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import attention, attention_online, soft_cap
from refimpl.numerics import low_precision, plain
from tests import loops
from tests.tiny import normal


def arrays(B: int, T: int, S: int, H: int, G: int, K: int, J: int, *, seed: int = 0) -> tuple[np.ndarray, ...]:
    """q, k and v, hot enough that the softmax is far from uniform."""
    return 2 * normal(B, T, H, K, seed=seed), 2 * normal(B, S, G, K, seed=seed + 1), normal(B, S, G, J, seed=seed + 2)


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    """q, k, v and options: any groups, masking, cap, sinks and bias; keys stored in any order, some of them padding."""
    B, T, extra, G, R, K, J = (
        draw(st.integers(low, 3), label=name) for name, low in zip("BTEGRKJ", [1, 0, 0, 1, 1, 1, 1], strict=True)
    )
    S, H, seed = T + 2 * extra, G * R, draw(st.integers(0, 999), label="seed")
    rng = np.random.default_rng(seed)
    masking = draw(
        st.sampled_from([{}, {"causal": False}, {"window": 1}, {"window": 3}, {"chunk": 2}, {"window": 2, "chunk": 3}])
    )
    options: dict[str, Any] = {"scale": draw(st.sampled_from([0.3, 1.0, -0.7])), **masking}
    if draw(st.booleans(), label="softcap"):
        options["softcap"] = 1.5
    if draw(st.booleans(), label="temperature"):
        options["temperature"] = rng.uniform(-2, 2, (B, T))
    if draw(st.booleans(), label="sinks"):
        options["sinks"] = rng.standard_normal(H) * 3
    bias = draw(st.sampled_from([None, (B, H, T, S), (1, H, 1, S), (B, 1, T, S), (T, 1), (S,)]), label="bias")
    if bias is not None:
        options["bias"] = rng.standard_normal(bias)
    if draw(st.booleans(), label="places"):
        options["q_order"] = rng.integers(-1, S + 2, (B, T))
        options["k_order"] = np.array([rng.permutation(S) for _ in range(B)]).reshape(B, S) * rng.choice([1, 1, -1], (B, S))
    return arrays(B, T, S, H, G, K, J, seed=seed), options


class TestAttention:
    @given(problems())
    def test_equals_the_loop(self, problem) -> None:
        qkv, options = problem
        np.testing.assert_allclose(attention(*qkv, **options), loops.attention(*qkv, **options), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize(("heads", "groups"), [(6, 6), (6, 3), (6, 2), (6, 1)])
    def test_r1_query_heads_share_consecutive_groups(self, heads: int, groups: int) -> None:
        q, k, _ = arrays(2, 4, 4, heads, groups, 5, 3)
        v = np.broadcast_to(np.arange(groups, dtype=float)[:, None], (2, 4, groups, 3))  # a value says whose it is
        y = attention(q, k, v, scale=1.0)
        assert y[0, 0, :, 0].round(12).tolist() == [h // (heads // groups) for h in range(heads)]

    def test_r1_equals_repeating_each_key_head(self) -> None:
        q, k, v = arrays(2, 4, 7, 6, 2, 5, 3)
        repeated = (np.stack([x[:, :, h // 3] for h in range(6)], axis=2) for x in (k, v))
        np.testing.assert_allclose(attention(q, k, v, scale=0.5), attention(q, *repeated, scale=0.5), rtol=1e-13)

    def test_r2_the_last_query_sees_the_last_key(self) -> None:
        q, k, v = arrays(1, 2, 5, 1, 1, 4, 4)
        whole = attention(np.concatenate([normal(1, 3, 1, 4, seed=9), q], axis=1), k, v, scale=1.0)
        np.testing.assert_allclose(attention(q, k, v, scale=1.0), whole[:, -2:], rtol=1e-13)

    def test_r2_a_large_future_key_changes_nothing(self) -> None:
        q, k, v = arrays(1, 4, 4, 2, 2, 4, 4)
        changed = k.copy(), v.copy()
        for array in changed:
            array[:, 3] = 1e6
        np.testing.assert_array_equal(attention(q, *changed, scale=1.0)[:, :3], attention(q, k, v, scale=1.0)[:, :3])

    @pytest.mark.parametrize("window", [1, 2, 4])
    def test_r3_the_key_just_outside_the_window_is_not_seen(self, window: int) -> None:
        q, k, v = np.ones((1, 1, 1, 2)), np.ones((1, 9, 1, 2)), np.zeros((1, 9, 1, 1))
        k[:, 8 - window] = v[:, 8 - window] = 100.0  # would take all the weight
        v[:, 9 - window] = 1.0
        np.testing.assert_allclose(attention(q, k, v, scale=1.0, window=window), 1 / window, rtol=1e-14)

    def test_r4_the_chunk_begins_anew(self) -> None:
        q, k, v = np.ones((1, 7, 1, 2)), np.ones((1, 7, 1, 2)), np.arange(7.0).reshape(1, 7, 1, 1)
        y = attention(q, k, v, scale=1.0, chunk=3).ravel()
        np.testing.assert_allclose(y, [0, 0.5, 1, 3, 3.5, 4, 6], rtol=1e-14)

    @pytest.mark.parametrize("sinks", [None, np.array([0.0, 50.0])])
    @pytest.mark.parametrize("function", [attention, attention_online])
    def test_r5_a_query_that_sees_no_key_returns_zeros(self, function, sinks) -> None:
        q, k, v = arrays(1, 3, 4, 2, 1, 4, 4)
        order = {"q_order": np.array([[-1, 0, 1]]), "k_order": np.array([[-1, 1, 2, -1]])}
        with np.errstate(all="raise"):
            y = function(q, k, v, scale=1.0, sinks=sinks, **order)
        np.testing.assert_array_equal(y[:, :2], 0)
        assert (y[:, 2] != 0).all()

    @pytest.mark.parametrize("function", [attention, attention_online])
    def test_r5_a_row_of_minus_infinite_bias_returns_zeros(self, function) -> None:
        q, k, v = arrays(1, 2, 3, 1, 1, 4, 4)
        bias = np.array([[-np.inf, -np.inf, -np.inf], [0.0, -np.inf, 0.0]])
        y = function(q, k, v, scale=1.0, bias=bias)
        np.testing.assert_array_equal(y[:, 0], 0)
        np.testing.assert_allclose(y[:, 1], attention(q[:, 1:], k[:, ::2], v[:, ::2], scale=1.0)[:, 0], rtol=1e-13)

    def test_r5_a_negative_place_is_never_seen(self) -> None:
        q, k, v = arrays(2, 2, 5, 2, 1, 4, 4)
        padded = attention(q, k, v, scale=1.0, q_order=np.array([[1, 2]] * 2), k_order=np.array([[-1, -5, 0, 1, 2]] * 2))
        np.testing.assert_allclose(padded, attention(q, k[:, 2:], v[:, 2:], scale=1.0), rtol=1e-13)

    def test_r6_the_cap_acts_on_scaled_scores_before_bias_and_mask(self) -> None:
        q, k = np.array([3.0, 4.0]).reshape(1, 1, 1, 2), np.array([[1.0, 2.0], [-1.0, 0.5]]).reshape(1, 2, 1, 2)
        y = attention(q, k, np.array([1.0, 0.0]).reshape(1, 2, 1, 1), scale=0.5, softcap=2.0, bias=np.array([3.0, 0.0]))
        first, second = 2 * math.tanh(0.5 * 11 / 2) + 3, 2 * math.tanh(0.5 * -1 / 2)
        assert math.isclose(y.item(), 1 / (1 + math.exp(second - first)), rel_tol=1e-13)

    def test_r6_the_temperature_multiplies_after_the_cap_and_before_the_bias(self) -> None:
        q, k = np.array([3.0, 4.0]).reshape(1, 1, 1, 2), np.array([[1.0, 2.0], [-1.0, 0.5]]).reshape(1, 2, 1, 2)
        options = {"softcap": 2.0, "bias": np.array([0.5, 0.0]), "temperature": np.array([[1.5]])}
        y = attention(q, k, np.array([1.0, 0.0]).reshape(1, 2, 1, 1), scale=0.5, **options)
        first, second = 1.5 * 2 * math.tanh(0.5 * 11 / 2) + 0.5, 1.5 * 2 * math.tanh(0.5 * -1 / 2)
        assert math.isclose(y.item(), 1 / (1 + math.exp(second - first)), rel_tol=1e-13)

    @pytest.mark.parametrize("function", [attention, attention_online])
    def test_r6_each_query_of_each_row_has_its_own_temperature(self, function) -> None:
        q, k, v = arrays(2, 3, 5, 4, 2, 6, 3)
        temperature = np.array([[1.0, 0.5, 2.0], [0.25, 3.0, 1.0]])
        hotter = q * temperature[:, :, None, None]
        expected = function(hotter, k, v, scale=0.5)
        np.testing.assert_allclose(function(q, k, v, scale=0.5, temperature=temperature), expected, rtol=1e-12)

    def test_r7_a_sink_is_not_tempered(self) -> None:
        one = np.zeros((1, 1, 1, 1))
        y = attention(one, one, one + 1, scale=1.0, temperature=np.array([[3.0]]), sinks=np.array([5.0]))
        assert math.isclose(y.item(), 1 / (1 + math.exp(5)), rel_tol=1e-14)

    def test_r6_a_masked_key_stays_masked_under_the_cap(self) -> None:
        q, k, v = arrays(1, 3, 3, 1, 1, 4, 4)
        y = attention(q, k, v, scale=100.0, softcap=0.1)
        np.testing.assert_array_equal(y[:, 0], v[:, 0])

    def test_r7_a_sink_equals_one_more_key_with_its_logit_and_a_zero_value(self) -> None:
        q, k, v = arrays(2, 3, 5, 4, 2, 6, 3)
        sinks = np.array([-2.0, 0.0, 3.0, 30.0])
        longer_k, longer_v = (np.concatenate([x, np.zeros((2, 1, *x.shape[2:]))], axis=1) for x in (k, v))
        bias = np.zeros((1, 4, 1, 6))
        bias[0, :, 0, 5] = sinks
        order = {"q_order": np.array([[2, 3, 4]] * 2), "k_order": np.array([[0, 1, 2, 3, 4, 0]] * 2)}
        expected = attention(q, longer_k, longer_v, scale=0.5, bias=bias, **order)
        np.testing.assert_allclose(attention(q, k, v, scale=0.5, sinks=sinks), expected, rtol=1e-12)

    def test_r7_a_sink_is_neither_scaled_nor_capped(self) -> None:
        one = np.zeros((1, 1, 1, 1))
        y = attention(one, one, one + 1, scale=0.01, softcap=1.0, sinks=np.array([5.0]))
        assert math.isclose(y.item(), 1 / (1 + math.exp(5)), rel_tol=1e-14)

    def test_r7_a_sink_of_minus_infinity_is_none(self) -> None:
        q, k, v = arrays(1, 3, 4, 2, 1, 4, 4)
        np.testing.assert_allclose(
            attention(q, k, v, scale=1.0, sinks=np.full(2, -np.inf)), attention(q, k, v, scale=1.0), rtol=1e-14
        )

    @given(st.permutations(range(6)), st.sampled_from([{}, {"window": 3}, {"chunk": 4}]))
    def test_r8_the_order_in_which_keys_are_stored_does_not_matter(self, permutation: list[int], masking: dict) -> None:
        q, k, v = arrays(1, 3, 6, 2, 1, 4, 4)
        order = {"q_order": np.array([[3, 4, 5]]), "k_order": np.array([permutation])}
        shuffled = attention(q, k[:, permutation], v[:, permutation], scale=1.0, **order, **masking)
        np.testing.assert_allclose(shuffled, attention(q, k, v, scale=1.0, **masking), rtol=1e-12)

    @pytest.mark.parametrize("function", [attention, attention_online])
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_r7_a_sink_far_above_the_scores_takes_all_the_weight_without_overflow(self, function, dtype: str) -> None:
        qkv = (x.astype(dtype) for x in arrays(1, 2, 3, 1, 1, 4, 4))
        with np.errstate(over="raise", invalid="raise"):
            y = function(*qkv, scale=1.0, sinks=np.array([2000.0], dtype))
        np.testing.assert_array_equal(y, 0)

    def test_huge_logits_do_not_overflow(self) -> None:
        q, k, v = arrays(1, 3, 3, 1, 1, 4, 4)
        for dtype in ("float64", "float32"):
            with np.errstate(over="raise", invalid="raise"):
                y = attention(*(x.astype(dtype) for x in (1e6 * q, k, v)), scale=1.0)
            assert np.isfinite(y).all()

    def test_a_constant_added_to_all_logits_changes_nothing(self) -> None:
        q, k, v = arrays(1, 3, 5, 2, 1, 4, 4)
        shifted = attention(q, k, v, scale=1.0, bias=np.full((1, 2, 3, 5), 1000.0))
        np.testing.assert_allclose(shifted, attention(q, k, v, scale=1.0), rtol=1e-11)

    def test_keeps_the_inputs_and_the_dtype(self) -> None:
        qkv = tuple(x.astype(np.float32) for x in arrays(1, 3, 5, 2, 1, 4, 4))
        before = [x.copy() for x in qkv]
        y = attention(*qkv, scale=0.5, softcap=3.0, sinks=np.zeros(2, np.float32))
        assert y.dtype == np.float32
        for x, copy in zip(qkv, before, strict=True):
            np.testing.assert_array_equal(x, copy)
        np.testing.assert_allclose(y, loops.attention(*qkv, scale=0.5, softcap=3.0, sinks=np.zeros(2)), rtol=1e-4, atol=1e-6)

    def test_t1_t2_scores_round_each_step_and_the_softmax_once(self) -> None:
        def low(x: np.ndarray) -> np.ndarray:
            return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)

        q, k, v = (low(x)[0, :, 0] for x in arrays(1, 4, 4, 1, 1, 8, 3))
        scores = low(low(q @ k.T) * np.float32(0.3))
        masked = np.where(np.tri(4, dtype=bool), scores, -np.inf)
        odds = np.exp(masked - masked.max(axis=-1, keepdims=True))
        expected = low(low(odds / odds.sum(axis=-1, keepdims=True)) @ v)
        y = attention(*(low_precision(x[None, :, None], ml_dtypes.bfloat16) for x in (q, k, v)), scale=0.3)
        np.testing.assert_array_equal(plain(y)[0, :, 0], expected)


class TestAttentionOnline:
    @given(problems(), st.integers(1, 12))
    def test_r9_equals_attention_for_every_block_size(self, problem, block: int) -> None:
        qkv, options = problem
        online = attention_online(*qkv, block=block, **options)
        np.testing.assert_allclose(online, attention(*qkv, **options), rtol=1e-12, atol=1e-13)

    def test_r9_holds_when_the_maximum_keeps_rising_and_falling(self) -> None:
        q, k, v = np.ones((1, 1, 1, 1)), np.array([0.0, 300, -300, 700, 1, 699, -900]).reshape(1, 7, 1, 1), normal(1, 7, 1, 2)
        with np.errstate(over="raise", invalid="raise"):
            for block in range(1, 9):
                online = attention_online(q, k, v, scale=1.0, block=block)
                np.testing.assert_allclose(online, attention(q, k, v, scale=1.0), rtol=1e-12)

    def test_r9_a_bias_without_axes(self) -> None:
        q, k, v = arrays(1, 2, 3, 1, 1, 4, 4)
        bias = np.array(2.0)
        np.testing.assert_allclose(
            attention_online(q, k, v, scale=1.0, bias=bias), attention(q, k, v, scale=1.0, bias=bias), rtol=1e-12
        )

    @pytest.mark.parametrize("block", [0, -1, 2.5, None])
    def test_block_must_be_a_positive_integer(self, block) -> None:
        with pytest.raises(ValueError, match=f"attention_online: block is {block!r} but needs a positive integer"):
            attention_online(*arrays(1, 2, 3, 1, 1, 4, 4), scale=1.0, block=block)

    def test_an_unknown_option_is_an_error(self) -> None:
        with pytest.raises((TypeError, ValueError), match="windw"):
            attention_online(*arrays(1, 2, 3, 1, 1, 4, 4), scale=1.0, windw=1)


class TestSoftCap:
    def test_r1_is_bounded_odd_and_has_slope_one_at_zero(self) -> None:
        x = np.array([-1e300, -50.0, -1e-4, 0.0, 1e-4, 50.0, 1e300])
        y = soft_cap(x, cap=30.0)
        assert (np.abs(y) <= 30).all()
        np.testing.assert_array_equal(y, -soft_cap(-x, cap=30.0))
        np.testing.assert_allclose(y[[2, 4]], [-1e-4, 1e-4], rtol=1e-10)

    @given(st.floats(-100, 100), st.floats(0.1, 100))
    def test_r1_equals_the_formula(self, x: float, cap: float) -> None:
        assert math.isclose(soft_cap(np.array(x), cap=cap).item(), cap * math.tanh(x / cap), rel_tol=1e-12)

    @pytest.mark.parametrize("cap", [0, -1.0, math.nan, math.inf, None])
    def test_the_cap_must_be_positive(self, cap) -> None:
        with pytest.raises(ValueError, match=f"soft_cap: cap is {cap!r} but needs a positive number"):
            soft_cap(np.ones(3), cap=cap)


@pytest.mark.parametrize("function", [attention, attention_online])
class TestEmptyAxes:
    def test_no_queries(self, function) -> None:
        q, k, v = arrays(2, 0, 3, 4, 2, 5, 6)
        assert function(q, k, v, scale=1.0).shape == (2, 0, 4, 6)

    @pytest.mark.parametrize("sinks", [None, np.zeros(4)])
    def test_no_keys_give_zeros(self, function, sinks) -> None:
        q, k, v = arrays(2, 3, 0, 4, 2, 5, 6)
        order = {"q_order": np.zeros((2, 3), int), "k_order": np.zeros((2, 0), int)}
        np.testing.assert_array_equal(function(q, k, v, scale=1.0, sinks=sinks, **order), np.zeros((2, 3, 4, 6)))


@pytest.mark.parametrize("function", [attention, attention_online])
class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"q": (2, 3, 4)}, r"q has shape \(2, 3, 4\) but needs \[B, T, H, K\]"),
            ({"k": (1, 5, 2, 6)}, r"k has shape \(1, 5, 2, 6\) but needs \[B, S, G, K\] with B = 2 as in q"),
            ({"k": (2, 5, 2, 7)}, r"k has shape \(2, 5, 2, 7\) but needs \[B, S, G, K\] with K = 6 as in q"),
            ({"v": (2, 4, 2, 3)}, r"v has shape \(2, 4, 2, 3\) but needs \[B, S, G, J\] with S = 5 as in k"),
            ({"v": (2, 5, 4, 3)}, r"v has shape \(2, 5, 4, 3\) but needs \[B, S, G, J\] with G = 2 as in k"),
            ({"q": (2, 3, 3, 6)}, "q has 3 heads and k has 2, but query heads must be a multiple of key heads"),
            ({"sinks": (3,)}, r"sinks has shape \(3,\) but needs \[H\] with H = 4 as in q"),
            ({"temperature": (2, 5)}, r"temperature has shape \(2, 5\) but needs \[B, T\] with T = 3 as in q"),
            ({"temperature": (3,)}, r"temperature has shape \(3,\) but needs \[B, T\]"),
            ({"bias": (2, 4, 3, 5, 1)}, r"bias has shape \(2, 4, 3, 5, 1\) but needs one broadcastable to \(2, 4, 3, 5\)"),
            ({"bias": (7,)}, r"bias has shape \(7,\) but needs one broadcastable to \(2, 4, 3, 5\)"),
            ({"q": (2, 6, 4, 6)}, "6 queries but 5 keys: without q_order and k_order the queries are the last keys"),
        ],
    )
    def test_shapes(self, function, change: dict, message: str) -> None:
        shapes = {"q": (2, 3, 4, 6), "k": (2, 5, 2, 6), "v": (2, 5, 2, 3), **change}
        given_arrays = {name: np.ones(shape) for name, shape in shapes.items()}
        qkv = [given_arrays.pop(name) for name in "qkv"]
        with pytest.raises(ValueError, match=f"{function.__name__}: {message}"):
            function(*qkv, scale=1.0, **given_arrays)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"q_order": np.zeros((2, 4), int)}, r"q_order has shape \(2, 4\) but needs \[B, T\] with T = 3 as in q"),
            ({"k_order": np.zeros((2, 4), int)}, r"k_order has shape \(2, 4\) but needs \[B, S\] with S = 5 as in k"),
            ({"q_order": np.zeros((2, 3))}, "q_order has dtype float64 but needs integers"),
            ({"window": 0}, "window is 0 but needs a positive integer"),
            ({"chunk": -1}, "chunk is -1 but needs a positive integer"),
            ({"softcap": 0.0}, "cap is 0.0 but needs a positive number"),
            ({"causal": False, "window": 2}, "window and chunk are defined for causal attention"),
            ({"sinks": np.zeros(4, np.float32)}, "sinks has dtype float32 but q has float64; they must be equal"),
            (
                {"temperature": np.ones((2, 3), np.float32)},
                "temperature has dtype float32 but q has float64; they must be equal",
            ),
            ({"bias": np.zeros(5, int)}, "bias has dtype int64 but needs float64 or float32"),
            ({"bias": [0.0] * 5}, "bias is a list but needs"),
            ({"scale": None}, "scale is None but needs"),
            ({"scale": math.nan}, "scale is nan but needs"),
        ],
    )
    def test_options(self, function, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            function(*arrays(2, 3, 5, 4, 2, 6, 3), **{"scale": 1.0, **options})
