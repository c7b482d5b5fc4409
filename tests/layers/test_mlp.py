"""Linear maps and activations against the math module."""

from __future__ import annotations

import math
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import clamped_swiglu, geglu, gelu, linear, sigmoid, sigmoid_gate, silu, swiglu
from refimpl.numerics import low_precision, plain
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16
FINITE = st.floats(-700, 700)
EXTREMES = [0.0, -0.0, 1e-300, -1e-300, 88.0, -88.0, 104.0, -104.0, 710.0, -710.0, 1e36, -1e36]


def to_bf16(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(BF16).astype(np.float32)


class TestLinear:
    @pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 5, 4), (0, 4), (2, 0, 4)])
    def test_r1_weight_rows_are_outputs(self, shape: tuple[int, ...]) -> None:
        x, weight, bias = normal(*shape), normal(5, 4, seed=1), normal(5, seed=2)
        expected = np.empty((*shape[:-1], 5))
        for index in np.ndindex(expected.shape):
            *front, o = index
            expected[index] = (
                math.fsum(a * b for a, b in zip(x[tuple(front)].tolist(), weight[o].tolist(), strict=True)) + bias[o]
            )
        y = linear(x, weight, bias)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(linear(x, weight), expected - bias, rtol=1e-11, atol=1e-13)

    def test_r1_a_square_weight_is_not_transposed(self) -> None:
        assert linear(np.array([1.0, 0.0]), np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [1, 3]

    def test_t1_products_accumulate_in_float32_and_round_before_the_bias(self) -> None:
        # 1 + 64 · 2^-8 = 1.25 exactly; rounding after each addition would stay at 1
        x, weight = np.ones((1, 65), np.float32), np.full((1, 65), 2.0**-8, np.float32)
        weight[0, 0] = 1.0
        low = low_precision(x, BF16), low_precision(weight, BF16)
        assert plain(linear(*low)).tolist() == [[1.25]]
        # 1.25 + 2^-7 + 2^-8 lies between two bfloat16; so does the sum before the bias, which must have been rounded
        weight[0, 1] = 2.0**-8 + 2.0**-9
        total, bias = np.float32(1.25 + 2.0**-9), np.float32(2.0**-9)
        y = linear(low[0], low_precision(weight, BF16), low_precision(np.array([bias]), BF16))
        assert plain(y).item() == to_bf16(to_bf16(total) + bias).item() != to_bf16(total + bias + np.float32(2.0**-8)).item()

    def test_weights_that_need_no_bias_take_none(self) -> None:
        assert linear(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), None).dtype == np.float32

    @pytest.mark.parametrize(
        ("x", "weight", "bias", "message"),
        [
            ((3, 4), (5, 3), (5,), r"weight has shape \(5, 3\) but needs \[O, I\] with I = 4 as in x"),
            ((3, 4), (5, 4), (4,), r"bias has shape \(4,\) but needs \[O\] with O = 5 as in weight"),
            ((3, 4), (4,), (4,), r"weight has shape \(4,\) but needs \[O, I\]"),
            ((), (5, 4), (5,), r"x has shape \(\) but needs \[..., I\]"),
        ],
    )
    def test_bad_shapes_are_one_sentence(self, x, weight, bias, message: str) -> None:
        with pytest.raises(ValueError, match=f"linear: {message}"):
            linear(np.ones(x), np.ones(weight), np.ones(bias))

    def test_mixed_formats_are_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="linear: weight has dtype float32 but x has float64; they must be equal"):
            linear(np.ones((1, 2)), np.ones((3, 2), np.float32))


class TestSilu:
    @given(FINITE)
    def test_equals_the_formula(self, x: float) -> None:
        assert math.isclose(silu(np.array([x])).item(), x / (1 + math.exp(-x)), rel_tol=1e-13, abs_tol=5e-324)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_r1_is_finite_for_any_finite_x_without_warnings(self, dtype: str) -> None:
        largest = np.finfo(dtype).max
        x = np.array([*EXTREMES, largest, -largest], dtype)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            y = silu(x)
        assert y.dtype == dtype
        assert np.isfinite(y).all()
        np.testing.assert_array_equal(y[x > 50], x[x > 50])
        assert (np.abs(y[x < -87]) < 1e-30).all()

    def test_t1_rounds_once(self) -> None:
        x = to_bf16(normal(200) * 5)
        np.testing.assert_array_equal(plain(silu(low_precision(x, BF16))), to_bf16(silu(x)))


class TestGelu:
    @given(st.floats(-40, 40))
    def test_r1_none_is_the_error_function(self, x: float) -> None:
        expected = x / 2 * math.erfc(-x / math.sqrt(2))
        assert math.isclose(gelu(np.array([x])).item(), expected, rel_tol=1e-12, abs_tol=2e-15)

    @given(st.floats(-40, 40))
    def test_r1_tanh_is_the_approximation(self, x: float) -> None:
        expected = x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        assert math.isclose(gelu(np.array([x]), approximate="tanh").item(), expected, rel_tol=1e-12, abs_tol=2e-15)

    def test_r1_the_forms_differ_by_up_to_5e_4(self) -> None:
        x = np.linspace(-6, 6, 2001)
        difference = np.abs(gelu(x) - gelu(x, approximate="tanh")).max()
        assert 4e-4 < difference < 5e-4

    @pytest.mark.parametrize("approximate", ["none", "tanh"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_extremes_are_finite_without_warnings(self, approximate: str, dtype: str) -> None:
        largest = np.finfo(dtype).max / 4
        x = np.array([*EXTREMES, largest, -largest], dtype)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            y = gelu(x, approximate=approximate)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y[x > 50], x[x > 50])
        np.testing.assert_array_equal(y[x < -50], 0)

    @pytest.mark.parametrize("approximate", ["none", "tanh"])
    def test_t1_rounds_once(self, approximate: str) -> None:
        x = to_bf16(normal(200) * 3)
        low = plain(gelu(low_precision(x, BF16), approximate=approximate))
        np.testing.assert_array_equal(low, to_bf16(gelu(x, approximate=approximate)))

    @pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4)])
    def test_any_shape(self, shape: tuple[int, ...]) -> None:
        assert gelu(np.ones(shape)).shape == shape

    @pytest.mark.parametrize("approximate", ["erf", "TANH", None, True])
    def test_another_form_is_an_error(self, approximate) -> None:
        with pytest.raises(ValueError, match=f"gelu: approximate is {approximate!r} but must be 'none' or 'tanh'"):
            gelu(np.ones(3), approximate=approximate)


class TestSwiglu:
    def test_r1_the_gate_goes_through_the_activation_and_up_does_not(self) -> None:
        y = swiglu(np.array([1.0, -2.0]), np.array([3.0, 5.0]))
        np.testing.assert_allclose(y, [3 / (1 + math.exp(-1)), -10 / (1 + math.exp(2))], rtol=1e-14)

    def test_t1_the_activation_is_cast_before_the_product(self) -> None:
        gate, up = to_bf16(normal(300)), to_bf16(normal(300, seed=1))
        y = plain(swiglu(low_precision(gate, BF16), low_precision(up, BF16)))
        np.testing.assert_array_equal(y, to_bf16(to_bf16(silu(gate)) * up))
        assert (y != to_bf16(silu(gate) * up)).any()


class TestGeglu:
    @pytest.mark.parametrize("options", [{}, {"approximate": "none"}])
    def test_the_gate_goes_through_the_error_function(self, options: dict) -> None:
        y = geglu(np.array([1.0, -2.0]), np.array([3.0, 5.0]), **options)
        np.testing.assert_allclose(y, [1.5 * math.erfc(-1 / math.sqrt(2)), -5 * math.erfc(math.sqrt(2))], rtol=1e-13)

    def test_tanh_selects_the_approximation(self) -> None:
        y = geglu(np.array([2.0]), np.array([3.0]), approximate="tanh").item()
        assert math.isclose(y, 3 * (1 + math.tanh(math.sqrt(2 / math.pi) * 2.35772)), rel_tol=1e-13)


class TestClampedSwiglu:
    @given(FINITE, FINITE, st.sampled_from([1.702, 1.0, -0.5]), st.sampled_from([7.0, 0.25]))
    def test_equals_the_formula(self, gate: float, up: float, alpha: float, limit: float) -> None:
        g, u = min(gate, limit), min(max(up, -limit), limit)
        odds = math.exp(alpha * g)
        expected = g * (odds / (1 + odds) if odds < 1 else 1 / (1 + 1 / odds)) * (u + 1)
        y = clamped_swiglu(np.array([gate]), np.array([up]), alpha=alpha, limit=limit).item()
        assert math.isclose(y, expected, rel_tol=1e-12, abs_tol=1e-300)

    def test_r1_the_gate_is_clamped_from_above_alone_and_up_on_both_sides(self) -> None:
        y = clamped_swiglu(np.array([-9.0, 9.0]), np.array([-9.0, 9.0]), alpha=0.25, limit=2.0)
        np.testing.assert_allclose(y, [9 / (1 + math.exp(9 / 4)), 6 / (1 + math.exp(-0.5))], rtol=1e-14)

    def test_r2_the_clamp_comes_before_alpha_and_before_the_shift(self) -> None:
        # alpha · 3 is below the limit and 3 is above it; 1.5 + 1 is above it and 1.5 is not
        y = clamped_swiglu(np.array([3.0]), np.array([1.5]), alpha=0.5, limit=2.0)
        np.testing.assert_allclose(y, 2 / (1 + math.exp(-1)) * 2.5, rtol=1e-14)

    def test_r3_1_is_added_to_the_clamped_factor(self) -> None:
        y = clamped_swiglu(np.array([1.0, 1.0]), np.array([0.0, -1.0]), alpha=1.0, limit=7.0)
        np.testing.assert_allclose(y, [1 / (1 + math.exp(-1)), 0], rtol=1e-14)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_extremes_are_finite_without_warnings(self, dtype: str) -> None:
        largest = np.finfo(dtype).max
        x = np.array([*EXTREMES, largest, -largest], dtype)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            y = clamped_swiglu(x, x[::-1], alpha=1.0, limit=7.0)
        assert y.dtype == dtype
        assert np.isfinite(y).all()

    def test_t1_every_step_rounds_and_the_sigmoid_once(self) -> None:
        gate, up = to_bf16(4 * normal(400)), to_bf16(4 * normal(400, seed=1))
        g, u = np.minimum(gate, np.float32(3)), np.clip(up, np.float32(-3), np.float32(3))
        steep = to_bf16(g * np.float32(1.702))
        expected = to_bf16(to_bf16(g * to_bf16(1 / (1 + np.exp(-steep)))) * to_bf16(u + np.float32(1)))
        low = low_precision(gate, BF16), low_precision(up, BF16)
        np.testing.assert_array_equal(plain(clamped_swiglu(*low, alpha=1.702, limit=3.0)), expected)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"limit": 0}, "limit is 0 but needs a positive number"),
            ({"limit": -7.0}, "limit is -7.0 but needs a positive number"),
            ({"limit": None}, "limit is None but needs a positive number"),
            ({"alpha": math.inf}, "alpha is inf but needs a finite number"),
            ({"alpha": None}, "alpha is None but needs a finite number"),
        ],
    )
    def test_wrong_constants_are_one_sentence(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^clamped_swiglu: {message}$"):
            clamped_swiglu(np.ones(2), np.ones(2), **{"alpha": 1.0, "limit": 7.0, **options})


class TestSigmoid:
    @given(FINITE)
    def test_equals_the_formula(self, x: float) -> None:
        assert math.isclose(sigmoid(np.array([x])).item(), 1 / (1 + math.exp(-x)), rel_tol=1e-14)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_r1_is_finite_for_any_finite_x_without_warnings(self, dtype: str) -> None:
        largest = np.finfo(dtype).max
        x = np.array([*EXTREMES, largest, -largest, np.inf, -np.inf], dtype)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            y = sigmoid(x)
        assert y.dtype == dtype
        assert ((y >= 0) & (y <= 1)).all()
        np.testing.assert_array_equal(y[x > 50], 1)
        assert (y[x < -87] < 1e-37).all()

    def test_t1_rounds_once(self) -> None:
        x = to_bf16(normal(200) * 5)
        np.testing.assert_array_equal(plain(sigmoid(low_precision(x, BF16))), to_bf16(sigmoid(x)))


class TestSigmoidGate:
    @pytest.mark.parametrize("front", [(), (4,), (2, 3), (0,)])
    @pytest.mark.parametrize("width", [1, 5])
    def test_r1_the_gate_goes_through_the_sigmoid_and_x_does_not(self, front: tuple[int, ...], width: int) -> None:
        x, gate = normal(*front, 5), normal(*front, width, seed=1)
        y = sigmoid_gate(x, gate)
        assert y.shape == x.shape
        for place in np.ndindex(x.shape):
            openness = 1 / (1 + math.exp(-gate[(*place[:-1], place[-1] if width > 1 else 0)]))
            assert math.isclose(y[place], openness * x[place], rel_tol=1e-14)

    def test_t1_the_sigmoid_is_cast_before_the_product(self) -> None:
        x, gate = to_bf16(normal(300)), to_bf16(normal(300, seed=1))
        y = plain(sigmoid_gate(low_precision(x, BF16), low_precision(gate, BF16)))
        np.testing.assert_array_equal(y, to_bf16(to_bf16(sigmoid(gate)) * x))
        assert (y != to_bf16(sigmoid(gate) * x)).any()

    @pytest.mark.parametrize("shape", [(5,), (3,), (3, 2), (1, 5), (1, 1), (3, 1, 1), ()])
    def test_another_shape_is_one_sentence(self, shape: tuple[int, ...]) -> None:
        message = rf"^sigmoid_gate: gate has shape {re.escape(str(shape))} but needs \(3, 5\) or \(3, 1\)$"
        with pytest.raises(ValueError, match=message):
            sigmoid_gate(np.ones((3, 5)), np.ones(shape))

    def test_mixed_formats_are_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="sigmoid_gate: gate has dtype float32 but x has float64; they must be equal"):
            sigmoid_gate(np.ones((3, 5)), np.ones((3, 5), np.float32))


def clamped(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return clamped_swiglu(gate, up, alpha=1.0, limit=1.0)


clamped.__name__ = "clamped_swiglu"


@pytest.mark.parametrize("gated", [swiglu, geglu, clamped])
class TestGatedBadInput:
    def test_shapes_must_be_equal_not_broadcastable(self, gated) -> None:
        message = rf"{gated.__name__}: up has shape \(1, 3\) but needs \(2, 3\), the shape of gate"
        with pytest.raises(ValueError, match=message):
            gated(np.ones((2, 3)), np.ones((1, 3)))

    def test_formats_must_be_equal(self, gated) -> None:
        with pytest.raises(ValueError, match=f"{gated.__name__}: up has dtype float32 but gate has float64"):
            gated(np.ones(3), np.ones(3, np.float32))


@pytest.mark.parametrize("function", [silu, gelu, sigmoid])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3, int), "x has dtype int64 but needs float64 or float32"),
        (np.ones(3, np.float16), "x has dtype float16 but needs float64 or float32"),
        ([1.0, 2.0], "x is a list but needs a NumPy array"),
    ],
)
def test_activations_of_something_else(function, x, message: str) -> None:
    with pytest.raises(ValueError, match=f"{function.__name__}: {message}"):
        function(x)
