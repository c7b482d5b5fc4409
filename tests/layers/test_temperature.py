"""Attention temperatures, one position at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import log_floor_temperature, log_length_temperature


class TestLogLengthTemperature:
    @given(st.integers(0, 10**6), st.integers(2, 5000))
    def test_equals_the_formula(self, position: int, length: int) -> None:
        expected = math.log(position) / math.log(length) if position > length else 1.0
        assert math.isclose(log_length_temperature(np.array([[position]]), length=length).item(), expected, rel_tol=1e-14)

    def test_r1_the_temperature_begins_to_grow_after_the_position_of_the_length(self) -> None:
        temperatures = log_length_temperature(np.array([[0, 1, 7, 8, 9, 64]]), length=8)[0]
        assert temperatures[:4].tolist() == [1, 1, 1, 1]
        np.testing.assert_allclose(temperatures[4:], [math.log(9) / math.log(8), 2.0], rtol=1e-15)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_t1_computes_in_the_given_format(self, dtype: str) -> None:
        found = log_length_temperature(np.array([[5, 1000], [3, 16384]]), length=1024, dtype=dtype)
        assert (found.dtype, found.shape) == (dtype, (2, 2))
        assert math.isclose(found[1, 1], 1.4, rel_tol=1e-6)

    @pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
    def test_positions_of_any_integer_format(self, kind) -> None:
        positions = np.array([[0, 5, 100]])
        for length in (4, 300):
            found = log_length_temperature(positions.astype(kind), length=length)
            np.testing.assert_array_equal(found, log_length_temperature(positions, length=length))

    @pytest.mark.parametrize("length", [0, -3, 2.0, None])
    def test_the_length_must_be_a_count(self, length) -> None:
        with pytest.raises(ValueError, match=f"^log_length_temperature: length is {length!r} but needs a positive integer$"):
            log_length_temperature(np.ones((1, 2), int), length=length)

    def test_a_length_of_1_has_no_logarithm_to_divide_by(self) -> None:
        with pytest.raises(ValueError, match=r"^log_length_temperature: length is 1 but needs an integer above 1$"):
            log_length_temperature(np.ones((1, 2), int), length=1)


class TestLogFloorTemperature:
    @given(st.integers(0, 10**6), st.integers(1, 9000), st.sampled_from([0.1, 1.0, -0.5]), st.integers(0, 3))
    def test_equals_the_formula(self, position: int, floor: int, scale: float, offset: int) -> None:
        expected = 1 + scale * math.log(1 + (position + offset) // floor)
        found = log_floor_temperature(np.array([[position]]), scale=scale, floor=floor, offset=offset).item()
        assert math.isclose(found, expected, rel_tol=1e-13, abs_tol=1e-14)

    def test_r1_the_first_step_is_one_position_before_the_floor(self) -> None:
        found = log_floor_temperature(np.array([[0, 6, 7, 14, 15]]), scale=0.5, floor=8)[0]
        np.testing.assert_allclose(
            found, [1, 1, 1 + 0.5 * math.log(2), 1 + 0.5 * math.log(2), 1 + 0.5 * math.log(3)], rtol=1e-15
        )

    def test_r1_without_offset_it_is_at_the_floor(self) -> None:
        found = log_floor_temperature(np.array([[7, 8]]), scale=1.0, floor=8, offset=0)[0]
        np.testing.assert_allclose(found, [1, 1 + math.log(2)], rtol=1e-15)

    @pytest.mark.parametrize("offset", [0, 1])
    def test_r2_a_negative_position_is_one_sentence(self, offset: int) -> None:
        message = "^log_floor_temperature: position -4 is negative, but a temperature needs 0 or more$"
        with pytest.raises(ValueError, match=message):
            log_floor_temperature(np.array([[0, -4]]), scale=1.0, floor=8, offset=offset)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_t1_computes_in_the_given_format(self, dtype: str) -> None:
        found = log_floor_temperature(np.array([[0, 8191, 10**6]]), scale=0.1, floor=8192, dtype=dtype)
        assert (found.dtype, found.shape) == (dtype, (1, 3))
        np.testing.assert_allclose(found[0], [1, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(123)], rtol=1e-6)

    @pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
    def test_positions_of_any_integer_format(self, kind) -> None:
        positions = np.array([[0, 5, 127]])
        found = log_floor_temperature(positions.astype(kind), scale=0.1, floor=2)
        np.testing.assert_array_equal(found, log_floor_temperature(positions, scale=0.1, floor=2))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"floor": 0}, "floor is 0 but needs a positive integer"),
            ({"floor": 2.0}, "floor is 2.0 but needs a positive integer"),
            ({"scale": math.nan}, "scale is nan but needs a finite number"),
            ({"offset": -1}, "offset is -1 but needs an integer, 0 or more"),
            ({"offset": 0.5}, "offset is 0.5 but needs an integer, 0 or more"),
        ],
    )
    def test_wrong_options_are_one_sentence(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^log_floor_temperature: {message}$"):
            log_floor_temperature(np.ones((1, 2), int), **{"scale": 1.0, "floor": 8, **options})


@pytest.mark.parametrize(
    "function",
    [
        lambda positions: log_length_temperature(positions, length=4),
        lambda positions: log_floor_temperature(positions, scale=1.0, floor=4),
    ],
)
class TestPositions:
    @pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
    def test_no_positions(self, function, shape: tuple[int, int]) -> None:
        assert function(np.zeros(shape, int)).shape[:2] == shape

    @pytest.mark.parametrize(
        ("positions", "message"),
        [
            (np.ones(3, int), r"positions has shape \(3,\) but needs \[B, T\]"),
            (np.ones((1, 3)), "positions has dtype float64 but needs integers"),
            ([[1, 2]], "positions is a list but needs a NumPy array"),
        ],
    )
    def test_bad_positions_are_one_sentence(self, function, positions, message: str) -> None:
        with pytest.raises(ValueError, match=rf"^\w+: {message}"):
            function(positions)
