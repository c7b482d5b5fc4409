"""Norms against sums written out with the math module."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import gated_rms_norm, l2_norm, layer_norm, rms_norm
from refimpl.numerics import low_precision, plain
from tests import loops
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16


def to_bf16(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(BF16).astype(np.float32)


class TestRmsNorm:
    def test_r1_eps_is_inside_the_root(self) -> None:
        # mean square 9e-6 and eps 7e-6 have the root 4e-3; outside the root they would have 3e-3 + 7e-6
        y = rms_norm(np.full((1, 5), 3e-3), eps=7e-6)
        np.testing.assert_allclose(y, 0.75, rtol=1e-14)

    def test_r1_a_zero_vector_stays_zero(self) -> None:
        np.testing.assert_array_equal(rms_norm(np.zeros((2, 4)), np.ones(4), eps=1e-6), 0)

    def test_r2_no_mean_is_subtracted(self) -> None:
        np.testing.assert_allclose(rms_norm(np.array([3.0, 4.0]), eps=0.0), [3 / math.sqrt(12.5), 4 / math.sqrt(12.5)])

    @pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7), (2, 3, 4, 7)])
    def test_r2_the_mean_is_over_the_last_axis_alone(self, shape: tuple[int, ...]) -> None:
        x, weight = normal(*shape) * 10, normal(7, seed=1)
        expected = np.array([loops.rms_norm(row, weight, 1e-5) for row in x.reshape(-1, 7)]).reshape(shape)
        np.testing.assert_allclose(rms_norm(x, weight, eps=1e-5), expected, rtol=1e-14)

    def test_r3_zero_centred_with_w_equals_plain_with_one_plus_w(self) -> None:
        x, weight = normal(3, 6), normal(6, seed=1)
        expected = np.array([loops.rms_norm(row, 1 + weight, 1e-6) for row in x])
        np.testing.assert_allclose(rms_norm(x, weight, eps=1e-6, zero_centred=True), expected, rtol=1e-14)

    @pytest.mark.parametrize("zero_centred", [False, True])
    def test_r4_without_a_weight_the_gain_is_one(self, zero_centred: bool) -> None:
        x = normal(3, 6)
        expected = np.array([loops.rms_norm(row, np.ones(6), 1e-6) for row in x])
        np.testing.assert_allclose(rms_norm(x, eps=1e-6, zero_centred=zero_centred), expected, rtol=1e-14)

    def test_is_invariant_to_the_scale_of_x_without_eps(self) -> None:
        x = normal(3, 6)
        np.testing.assert_allclose(rms_norm(-1000 * x, eps=0.0), -rms_norm(x, eps=0.0), rtol=1e-13)

    def test_t1_t2_a_plain_gain_multiplies_after_the_cast(self) -> None:
        x, weight = to_bf16(normal(40, 8)), to_bf16(normal(8, seed=1))
        root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-5))
        y = plain(rms_norm(low_precision(x, BF16), low_precision(weight, BF16), eps=1e-5))
        np.testing.assert_array_equal(y, to_bf16(to_bf16(x / root) * weight))
        assert (y != to_bf16(x / root * weight)).any(), "the inputs must tell two roundings from one"

    def test_t2_a_zero_centred_gain_is_added_to_one_in_float32(self) -> None:
        x, weight = to_bf16(normal(40, 8)), to_bf16(normal(8, seed=1) * 0.01)
        root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-5))
        y = plain(rms_norm(low_precision(x, BF16), low_precision(weight, BF16), eps=1e-5, zero_centred=True))
        np.testing.assert_array_equal(y, to_bf16(x / root * (1 + weight)))
        assert (y != to_bf16(to_bf16(x / root) * to_bf16(1 + weight))).any()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_keeps_the_dtype(self, dtype: str) -> None:
        assert rms_norm(normal(2, 4, dtype=dtype), normal(4, dtype=dtype), eps=1e-6).dtype == dtype


class TestLayerNorm:
    def test_r1_the_variance_is_divided_by_d(self) -> None:
        # deviations ±1, variance 1 with D = 2 (2 with D - 1)
        np.testing.assert_allclose(layer_norm(np.array([4.0, 6.0]), np.ones(2), eps=0.0), [-1, 1])

    def test_r2_eps_is_inside_the_root(self) -> None:
        # variance 9, eps 7, root 4
        np.testing.assert_allclose(layer_norm(np.array([-3.0, 3.0]), np.ones(2), eps=7.0), [-0.75, 0.75])

    def test_r3_bias_is_added_after_the_gain(self) -> None:
        y = layer_norm(np.array([4.0, 6.0]), np.array([2.0, 3.0]), np.array([10.0, 20.0]), eps=0.0)
        np.testing.assert_allclose(y, [8, 23])

    def test_equals_the_formula_row_by_row(self) -> None:
        x, weight, bias = normal(2, 3, 7) * 3 + 5, normal(7, seed=1), normal(7, seed=2)
        expected = np.empty_like(x)
        for b, t in np.ndindex(2, 3):
            row = x[b, t].tolist()
            mean = math.fsum(row) / 7
            variance = math.fsum((value - mean) ** 2 for value in row) / 7
            expected[b, t] = [
                (z - mean) / math.sqrt(variance + 1e-5) * w + c for z, w, c in zip(row, weight, bias, strict=True)
            ]
        np.testing.assert_allclose(layer_norm(x, weight, bias, eps=1e-5), expected, rtol=1e-12)
        np.testing.assert_allclose(layer_norm(x, weight, eps=1e-5), expected - bias, rtol=1e-11, atol=1e-13)

    def test_pitfall_a_large_mean_does_not_cancel_in_float32(self) -> None:
        x = np.array([9999.0, 10000.0, 10001.0], np.float32)
        np.testing.assert_allclose(
            layer_norm(x, np.ones(3, np.float32), eps=0.0), np.array([-1, 0, 1]) * math.sqrt(1.5), rtol=1e-5
        )

    def test_t1_rounds_once(self) -> None:
        x, weight, bias = to_bf16(normal(30, 8)), to_bf16(normal(8, seed=1)), to_bf16(normal(8, seed=2))
        exact = layer_norm(x, weight, bias, eps=1e-5)
        low = (low_precision(array, BF16) for array in (x, weight, bias))
        np.testing.assert_array_equal(plain(layer_norm(*low, eps=1e-5)), to_bf16(exact))


class TestGatedRmsNorm:
    X, GATE, WEIGHT = normal(2, 3, 6), 2 * normal(2, 3, 6, seed=1), 1 + normal(6, seed=2)

    @pytest.mark.parametrize(
        ("activation", "factor"), [("silu", lambda z: z / (1 + math.exp(-z))), ("sigmoid", lambda z: 1 / (1 + math.exp(-z)))]
    )
    @pytest.mark.parametrize("gate_first", [False, True])
    def test_r1_r2_r3_the_gate_is_activated_on_its_side_of_the_norm(self, activation, factor, gate_first: bool) -> None:
        y = gated_rms_norm(self.X, self.GATE, self.WEIGHT, eps=1e-5, activation=activation, gate_first=gate_first)
        for row, gates, found in zip(self.X.reshape(-1, 6), self.GATE.reshape(-1, 6), y.reshape(-1, 6), strict=True):
            opened = np.array([factor(z) for z in gates])
            inner, outer = (row * opened, 1) if gate_first else (row, opened)
            np.testing.assert_allclose(found, loops.rms_norm(inner, self.WEIGHT, 1e-5) * outer, rtol=1e-13)

    def test_r4_the_gain_is_plain(self) -> None:
        np.testing.assert_array_equal(gated_rms_norm(self.X, self.GATE, np.zeros(6), eps=1e-5), 0)

    def test_t1_the_normed_value_is_cast_then_the_gain_then_the_gate(self) -> None:
        x, gate, weight = map(to_bf16, (self.X, self.GATE, self.WEIGHT))
        low = (low_precision(array, BF16) for array in (x, gate, weight))
        normed = to_bf16(to_bf16(rms_norm(x, eps=1e-5)) * weight)
        np.testing.assert_array_equal(plain(gated_rms_norm(*low, eps=1e-5)), to_bf16(normed * (gate / (1 + np.exp(-gate)))))

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"gate": np.zeros((2, 1, 6))}, r"gate has shape \(2, 1, 6\) but needs \(2, 3, 6\), the shape of x"),
            ({"gate": np.zeros((2, 3, 5))}, r"gate has shape \(2, 3, 5\) but needs \[..., D\] with D = 6"),
            ({"activation": "relu"}, "activation is 'relu' but must be 'silu' or 'sigmoid'"),
            ({"gate_first": 1}, "gate_first is 1 but needs"),
        ],
    )
    def test_a_wrong_call_ends_in_one_sentence(self, change, sentence: str) -> None:
        given = {"x": self.X, "gate": self.GATE, "weight": self.WEIGHT, "eps": 1e-5}
        with pytest.raises(ValueError, match=f"gated_rms_norm: {sentence}"):
            gated_rms_norm(**{**given, **change})


class TestL2Norm:
    def test_r1_eps_is_added_to_the_sum_under_the_root(self) -> None:
        # 9 + 16 + 11 = 36; max(5, eps) would leave 3/11
        np.testing.assert_allclose(l2_norm(np.array([3.0, 4.0]), eps=11.0), [0.5, 4 / 6])

    def test_r2_the_sum_is_not_divided_by_d(self) -> None:
        y = l2_norm(normal(2, 3, 9), eps=0.0)
        for b, t in np.ndindex(2, 3):
            assert math.isclose(math.fsum(value * value for value in y[b, t].tolist()), 1.0, rel_tol=1e-13)

    def test_t1_rounds_once(self) -> None:
        x = to_bf16(normal(30, 8))
        np.testing.assert_array_equal(plain(l2_norm(low_precision(x, BF16), eps=1e-6)), to_bf16(l2_norm(x, eps=1e-6)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: rms_norm(x, w[:-1], eps=1e-6), r"rms_norm: weight has shape \(5,\) but needs \[D\] with D = 6 as in x"),
        (lambda x, w: rms_norm(x, w[None], eps=1e-6), r"rms_norm: weight has shape \(1, 6\) but needs \[D\]"),
        (lambda x, w: rms_norm(np.array(1.0), eps=1e-6), r"rms_norm: x has shape \(\) but needs \[..., D\]"),
        (lambda x, w: rms_norm(x.tolist(), w, eps=1e-6), r"rms_norm: x is a list but needs a NumPy array of shape \[..., D\]"),
        (lambda x, w: rms_norm(x, w.astype("f4"), eps=1e-6), "weight has dtype float32 but x has float64; they must be equal"),
        (lambda x, w: rms_norm(x.astype("f2"), eps=1e-6), "x has dtype float16 but needs float64 or float32"),
        (lambda x, w: rms_norm(x.astype(BF16), eps=1e-6), "x has dtype bfloat16 but needs float64 or float32"),
        (lambda x, w: rms_norm(x.astype(int), eps=1e-6), "x has dtype int64 but needs float64 or float32"),
        (
            lambda x, w: layer_norm(x, w, w[1:], eps=1e-6),
            r"layer_norm: bias has shape \(5,\) but needs \[D\] with D = 6 as in x",
        ),
        (lambda x, w: layer_norm(x, w, w.astype("f4"), eps=1e-6), "layer_norm: bias has dtype float32 but x has float64"),
        (lambda x, w: l2_norm(x.astype(bool), eps=1e-6), "l2_norm: x has dtype bool but needs float64 or float32"),
        (lambda x, w: l2_norm(3.0, eps=1e-6), "l2_norm: x is a float but needs a NumPy array"),
    ],
)
def test_bad_input_is_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(2, 6), normal(6))


@pytest.mark.parametrize("eps", [None, "1e-6", -1.0, math.nan])
@pytest.mark.parametrize("norm", [rms_norm, lambda x, eps: layer_norm(x, np.ones(6), eps=eps), l2_norm])
def test_bad_eps_is_one_sentence(norm, eps) -> None:
    with pytest.raises(ValueError, match=r"eps is .* but needs"):
        norm(normal(2, 6), eps=eps)
