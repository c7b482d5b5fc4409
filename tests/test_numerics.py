"""Low precision against ml_dtypes' and NumPy's own narrow arithmetic, and against sums done by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.numerics import (
    FORMATS,
    LazyArray,
    LowPrecision,
    float32_inside,
    float_format,
    is_float,
    low_precision,
    plain,
    precision_of,
    rounded,
    scalar_like,
    smallest_step,
    unit_roundoff,
)
from refimpl.shapes import check, check_floats
from tests.tiny import normal

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
NARROW = pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
FLOATS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)


def is_on_grid(array: Any, dtype: np.dtype) -> bool:
    """Whether an array is `LowPrecision` and holds numbers of `dtype` only."""
    values = plain(array)
    return isinstance(array, LowPrecision) and array.precision == dtype and (values.astype(dtype).astype("f4") == values).all()


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [("bfloat16", 2.0**-8), ("float16", 2.0**-11), ("float32", 2.0**-24), ("float64", 2.0**-53)],
    )
    def test_unit_roundoff_is_half_the_distance_from_one_to_the_next_number(self, name: str, expected: float) -> None:
        assert unit_roundoff(name) == expected
        dtype, one = FORMATS[name], np.ones((), FORMATS[name])
        above = np.asarray(1 + 3 * expected, np.float64).astype(dtype) if name != "float64" else np.float64(1 + 2 * expected)
        assert above > one
        assert np.asarray(1 + 0.99 * expected).astype(dtype) == one

    @pytest.mark.parametrize(("name", "power"), [("bfloat16", -133), ("float16", -24), ("float32", -149), ("float64", -1074)])
    def test_smallest_step_is_the_smallest_positive_number(self, name: str, power: int) -> None:
        assert smallest_step(name) == 2.0**power

    @pytest.mark.parametrize("name", ["float8", "bf16", "int64", None, np.float32])
    def test_an_unknown_format_is_one_sentence(self, name) -> None:
        with pytest.raises(ValueError, match=r"dtype is .* but must be one of float64, float32, bfloat16, float16"):
            float_format(name)

    def test_a_choice_of_formats_is_obeyed(self) -> None:
        assert float_format("float32", among=("float64", "float32")) == np.float32
        with pytest.raises(ValueError, match=r"dtype is 'bfloat16' but must be one of float64, float32$"):
            float_format("bfloat16", among=("float64", "float32"))

    @pytest.mark.parametrize("dtype", [*FORMATS.values(), np.longdouble])
    def test_is_float(self, dtype) -> None:
        assert is_float(dtype)

    @pytest.mark.parametrize("dtype", [np.int64, bool, np.uint8, "U3", np.complex128, ml_dtypes.float8_e5m2])
    def test_is_not_float(self, dtype) -> None:
        assert not is_float(dtype)


class TestLowPrecision:
    @NARROW
    @given(a=FLOATS, b=FLOATS, operation=st.sampled_from([operator.add, operator.sub, operator.mul, np.maximum]))
    def test_every_step_rounds_as_the_format_itself_does(self, dtype, a, b, operation) -> None:
        low_a, low_b = low_precision(a, dtype), low_precision(b, dtype)
        native_a, native_b = np.array(a).astype("f4").astype(dtype), np.array(b).astype("f4").astype(dtype)
        with np.errstate(over="ignore"):
            native = operation(operation(native_a, native_b), native_b)
            result = operation(operation(low_a, low_b), low_b)
        np.testing.assert_array_equal(plain(result), native.astype("f4"))

    @NARROW
    def test_division_and_roots_round_too(self, dtype) -> None:
        a, b = np.abs(normal(2, 500, dtype="float32")).astype(dtype)
        low_a, low_b = low_precision(a, dtype), low_precision(b, dtype)
        np.testing.assert_array_equal(plain(low_a / low_b), (a / b).astype("f4"))
        np.testing.assert_array_equal(plain(np.sqrt(low_a)), np.sqrt(a).astype("f4"))

    @NARROW
    @pytest.mark.parametrize("expression", [
        lambda x: x * 0.1,
        lambda x: 1 + x,
        lambda x: x**3,
        lambda x: np.float32(0.3) * x,
        lambda x: x - np.float32(0.3) * np.ones(6, np.float32),
        lambda x: np.exp(-x),
        lambda x: np.where(x > 0, x, np.float32(0.1)),
        lambda x: np.concatenate([x, np.full(2, np.float32(0.1))]),
        lambda x: x.reshape(2, 3).T @ np.full((2, 2), np.float32(0.1)),
        lambda x: np.einsum("i,i->i", x, x),
        lambda x: np.mean(x, keepdims=True),
        lambda x: x.mean(keepdims=True),
        lambda x: np.cumsum(x),
        lambda x: np.add.outer(x, x),
        lambda x: np.clip(x, -0.1, 0.1),
    ])  # fmt: skip
    def test_every_result_is_on_the_grid(self, dtype, expression: Callable) -> None:
        assert is_on_grid(expression(low_precision(normal(6), dtype)), dtype)

    @NARROW
    @pytest.mark.parametrize("expression", [np.sum, np.max, np.mean, lambda x: x.sum(), lambda x: np.sum(x) * np.float32(0.1)])
    def test_a_scalar_result_is_on_the_grid(self, dtype, expression: Callable) -> None:
        result = expression(low_precision(normal(6), dtype))
        assert float(result) == float(np.asarray(float(result)).astype(dtype))

    @NARROW
    def test_a_tuple_of_results_is_on_the_grid(self, dtype) -> None:
        fraction, whole = np.modf(low_precision(normal(6) * 10, dtype) * 1.5)
        assert is_on_grid(fraction, dtype)
        assert is_on_grid(whole, dtype)

    @NARROW
    @pytest.mark.parametrize(
        "view", [lambda x: x[1:], lambda x: x.T, lambda x: x.reshape(-1), lambda x: x[None], lambda x: x.copy()]
    )
    def test_views_keep_the_format(self, dtype, view: Callable) -> None:
        assert is_on_grid(view(low_precision(normal(3, 2), dtype)) * 0.1, dtype)

    def test_comparisons_and_integers_are_left_alone(self) -> None:
        x = low_precision([1.0, 2.0], BF16)
        assert (x > 1.5).tolist() == [False, True]
        assert (x > 1.5).dtype == bool
        assert np.argmax(x) == 1

    @pytest.mark.parametrize("product", [
        lambda x, y: x @ y,
        lambda x, y: np.matmul(x, y),
        lambda x, y: np.einsum("ij,jk->ik", x, y),
        lambda x, y: np.sum(x * y.T, axis=1, keepdims=True),
    ])  # fmt: skip
    def test_products_accumulate_in_float32_and_round_once(self, product: Callable) -> None:
        # 1 + 256 · 2^-9 is 1.5; rounding each partial sum to bfloat16 would stay at 1
        x, y = np.full((1, 257), 2.0**-9), np.ones((257, 1))
        x[0, 0] = 1.0
        assert float(product(low_precision(x, BF16), low_precision(y, BF16))[0, 0]) == 1.5

    def test_the_result_of_a_product_is_rounded(self) -> None:
        x = low_precision([[1.0, 2.0**-9]], BF16)
        assert float((x @ low_precision(np.ones((2, 1)), BF16))[0, 0]) == 1.0

    def test_large_numbers_overflow_as_the_format_does(self) -> None:
        with np.errstate(over="ignore"):
            assert np.isinf(plain(low_precision([60000.0], F16) * 2.0)).all()

    def test_a_result_written_into_an_array_is_rounded_too(self) -> None:
        x = low_precision([1.0, 2.0], BF16)
        alias = x
        x += np.float32(2.0**-9)
        assert plain(alias).tolist() == [1.0, 2.0]

    def test_a_number_assigned_into_an_array_is_rounded(self) -> None:
        x = low_precision([1.0, 2.0], BF16)
        x[0] = 0.1
        assert float(x[0]) == float(np.float32(0.1).astype(BF16))

    def test_an_ordinary_array_has_no_format(self) -> None:
        assert precision_of(np.ones(3), [np.ones(2), {"a": np.ones(1)}]) is None
        assert rounded(np.array([0.1]), None).tolist() == [0.1]

    def test_the_format_is_found_inside_tuples_lists_and_dicts(self) -> None:
        assert precision_of([{"a": (1, low_precision([1.0], F16))}]) == F16

    def test_plain_looks_inside_tuples_lists_and_dicts(self) -> None:
        low = low_precision([1.5], BF16)
        found = plain({"a": (low, [low, 3])})
        assert type(found["a"][0]) is np.ndarray
        assert type(found["a"][1][0]) is np.ndarray
        assert found["a"][1][1] == 3


class TestFloat32Inside:
    @staticmethod
    def square_root_of_the_square(x: np.ndarray) -> np.ndarray:
        return np.sqrt(x * x + x)

    def test_rounds_once(self) -> None:
        x = normal(200, dtype="float32") ** 2
        low = low_precision(x, BF16)
        once = float32_inside(self.square_root_of_the_square)(low)
        exact = np.sqrt(plain(low) * plain(low) + plain(low)).astype(BF16).astype("f4")
        np.testing.assert_array_equal(plain(once), exact)
        assert (plain(self.square_root_of_the_square(low)) != exact).any(), "the inputs must tell one rounding from three"

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_leaves_ordinary_arrays_alone(self, dtype: str) -> None:
        x = np.abs(normal(9)).astype(dtype)
        result = float32_inside(self.square_root_of_the_square)(x)
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, np.sqrt(x * x + x))

    def test_finds_a_low_precision_keyword_argument(self) -> None:
        result = float32_inside(lambda x, *, y: x * y)(np.float32(0.1), y=low_precision([1.0], BF16))
        assert is_on_grid(result, BF16)

    def test_keeps_the_name_and_the_documentation(self) -> None:
        def documented() -> None:
            """Says something."""

        assert float32_inside(documented).__doc__ == "Says something."
        assert float32_inside(documented).__name__ == "documented"


class Counting(LazyArray):
    """A stack of matrices that are made when they are read."""

    def __init__(self, *shape: int, dtype: str = "float64") -> None:
        self.shape, self.dtype, self.reads = shape, np.dtype(dtype), 0

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads += 1
        return np.full(self.shape[1:], index, self.dtype)


class TestLazyArray:
    def test_has_the_axes_of_its_shape(self) -> None:
        stack = Counting(4, 2, 3)
        assert (stack.ndim, len(stack)) == (3, 4)
        assert stack[2].tolist() == [[2, 2, 2]] * 2

    def test_is_checked_by_shape_and_format_without_being_read(self) -> None:
        stack = Counting(4, 2, 3)
        assert check("layer", stack=(stack, "EFD"), x=(np.ones((5, 3)), "...D")) == {"E": 4, "F": 2, "D": 3}
        check_floats("layer", stack=stack, x=np.ones(3))
        with pytest.raises(ValueError, match=r"^layer: stack has shape \(4, 2, 3\) but needs \[E, F\]$"):
            check("layer", stack=(stack, "EF"))
        with pytest.raises(ValueError, match=r"^layer: stack has dtype float32 but x has float64; they must be equal$"):
            check_floats("layer", x=np.ones(3), stack=Counting(4, 2, 3, dtype="float32"))
        assert stack.reads == 0

    def test_needs_a_way_to_read_an_entry(self) -> None:
        with pytest.raises(TypeError, match="__getitem__"):
            LazyArray()  # type: ignore[abstract]


class TestScalarLike:
    def test_a_scalar_takes_the_format_of_the_array(self) -> None:
        assert scalar_like(50.596, low_precision([1.0], BF16)) == 50.5
        assert scalar_like(0.1, np.ones(1, np.float32)) == np.float32(0.1)
        assert scalar_like(0.1, np.ones(1)) == 0.1
