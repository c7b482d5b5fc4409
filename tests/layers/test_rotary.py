"""The rotation against multiplication of complex numbers, and what follows from it."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import position_embedding, rope_cos_sin, rope_frequencies, rotary_embedding
from refimpl.numerics import low_precision, plain
from tests import loops
from tests.tiny import normal

POSITIONS = st.integers(-(10**6), 10**6)
LAYOUTS = pytest.mark.parametrize("interleaved", [False, True])


def by_loops(x: np.ndarray, positions: np.ndarray, inv_freq: np.ndarray, *, interleaved: bool) -> np.ndarray:
    y = np.empty_like(x)
    for b, t, h in np.ndindex(x.shape[:3]):
        angles = [int(positions[b, t]) * f for f in inv_freq.tolist()]
        y[b, t, h] = loops.rotate(x[b, t, h].tolist(), angles, interleaved=interleaved)
    return y


class TestRopeCosSin:
    def test_r1_positions_are_used_as_they_are(self) -> None:
        positions = np.array([[5, 3, 3, 1000], [-7, 0, 2**20, -1]])
        inv_freq = np.array([1.0, 0.25, 1e-3])
        cos, sin = rope_cos_sin(positions, inv_freq)
        assert cos.shape == sin.shape == (2, 4, 3)
        for b, t, p in np.ndindex(2, 4, 3):
            angle = int(positions[b, t]) * float(inv_freq[p])
            assert math.isclose(cos[b, t, p], math.cos(angle), rel_tol=1e-12, abs_tol=1e-15)
            assert math.isclose(sin[b, t, p], math.sin(angle), rel_tol=1e-12, abs_tol=1e-15)

    def test_r2_the_attention_factor_multiplies_both(self) -> None:
        cos, sin = rope_cos_sin(np.array([[0, 3]]), np.array([0.5]), attention_factor=1.25)
        np.testing.assert_allclose(cos[0, :, 0], [1.25, 1.25 * math.cos(1.5)], rtol=1e-15)
        np.testing.assert_allclose(sin[0, :, 0], [0, 1.25 * math.sin(1.5)], rtol=1e-15)

    @pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8", "uint64"])
    def test_r1_any_integer_format(self, kind: str) -> None:
        cos, _ = rope_cos_sin(np.array([[0, 100]], dtype=kind), np.array([0.5]))
        np.testing.assert_allclose(cos[0, :, 0], [1, math.cos(50)], rtol=1e-12)

    def test_computes_in_the_dtype_of_the_frequencies(self) -> None:
        cos, sin = rope_cos_sin(np.array([[7]]), np.array([0.1], np.float32), attention_factor=1.5)
        assert cos.dtype == sin.dtype == np.float32

    @pytest.mark.parametrize(
        ("positions", "inv_freq", "message"),
        [
            (np.array([[1.0]]), np.array([1.0]), "positions has dtype float64 but needs integers"),
            (np.array([1]), np.array([1.0]), r"positions has shape \(1,\) but needs \[B, T\]"),
            (np.array([[1]]), np.array([[1.0]]), r"inv_freq has shape \(1, 1\) but needs \[P\]"),
            (np.array([[1]]), np.array([1]), "inv_freq has dtype int64 but needs float64 or float32"),
        ],
    )
    def test_bad_input_is_one_sentence(self, positions: np.ndarray, inv_freq: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=f"rope_cos_sin: {message}"):
            rope_cos_sin(positions, inv_freq)

    @pytest.mark.parametrize("factor", [None, math.nan, "1"])
    def test_a_wrong_attention_factor_is_one_sentence(self, factor) -> None:
        with pytest.raises(ValueError, match=f"rope_cos_sin: attention_factor is {factor!r} but needs"):
            rope_cos_sin(np.array([[1]]), np.array([1.0]), attention_factor=factor)


class TestRotaryEmbedding:
    def test_r1_half_split_pairs_are_half_the_width_apart(self) -> None:
        cos, sin = np.array([[[0.0, 1.0]]]), np.array([[[1.0, 0.0]]])  # pair 0 by a quarter turn, pair 1 not at all
        x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
        np.testing.assert_array_equal(rotary_embedding(x, cos, sin).ravel(), [-3, 2, 1, 4])

    def test_r1_interleaved_pairs_are_neighbours_and_stay_in_place(self) -> None:
        cos, sin = np.array([[[0.0, 1.0]]]), np.array([[[1.0, 0.0]]])
        x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
        np.testing.assert_array_equal(rotary_embedding(x, cos, sin, interleaved=True).ravel(), [-2, 1, 3, 4])

    @LAYOUTS
    @given(sizes=st.tuples(*[st.integers(1, 3)] * 4), rest=st.integers(0, 3), start=POSITIONS, step=st.integers(-999, 999))
    def test_r1_equals_multiplication_of_complex_numbers(self, interleaved, sizes, rest, start, step) -> None:
        B, T, H, P = sizes
        positions = start + step * np.arange(B * T).reshape(B, T)
        inv_freq = rope_frequencies(2 * P, theta=1e4)
        x = normal(B, T, H, 2 * P + rest)
        y = rotary_embedding(x, *rope_cos_sin(positions, inv_freq), interleaved=interleaved)
        np.testing.assert_allclose(y, by_loops(x, positions, inv_freq, interleaved=interleaved), atol=1e-12)

    @LAYOUTS
    @pytest.mark.parametrize("rotated", [2, 6, 10])
    def test_r2_entries_beyond_the_rotated_width_pass_unchanged(self, interleaved: bool, rotated: int) -> None:
        x = normal(2, 3, 4, 10)
        cos, sin = rope_cos_sin(np.arange(6).reshape(2, 3) + 1, rope_frequencies(rotated, theta=100.0))
        y = rotary_embedding(x, cos, sin, interleaved=interleaved)
        np.testing.assert_array_equal(y[..., rotated:], x[..., rotated:])
        assert (y[..., :rotated] != x[..., :rotated]).all()

    @LAYOUTS
    def test_r3_every_head_is_rotated_alike(self, interleaved: bool) -> None:
        head = normal(2, 3, 1, 8)
        cos, sin = rope_cos_sin(np.arange(6).reshape(2, 3), rope_frequencies(8, theta=100.0))
        y = rotary_embedding(np.repeat(head, 5, axis=2), cos, sin, interleaved=interleaved)
        np.testing.assert_array_equal(y, np.repeat(y[:, :, :1], 5, axis=2))

    @LAYOUTS
    @given(q_at=POSITIONS, k_at=POSITIONS, shift=POSITIONS, seed=st.integers(0, 99))
    def test_r4_scores_depend_on_the_difference_of_positions(self, interleaved, q_at, k_at, shift, seed) -> None:
        q, k = normal(2, 1, 1, 1, 8, seed=seed)
        inv_freq = rope_frequencies(8, theta=100.0)

        def score(q_position: int, k_position: int) -> float:
            turned = [
                rotary_embedding(x, *rope_cos_sin(np.array([[at]]), inv_freq), interleaved=interleaved)
                for x, at in ((q, q_position), (k, k_position))
            ]
            return float(np.sum(turned[0] * turned[1]))

        assert math.isclose(score(q_at, k_at), score(q_at + shift, k_at + shift), abs_tol=1e-8)

    @LAYOUTS
    def test_position_zero_changes_nothing_and_lengths_never_change(self, interleaved: bool) -> None:
        x = normal(1, 2, 3, 8)
        y = rotary_embedding(x, *rope_cos_sin(np.array([[0, 12345]]), rope_frequencies(8, theta=1e4)), interleaved=interleaved)
        np.testing.assert_array_equal(y[:, 0], x[:, 0])
        np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-14)

    def test_the_layouts_differ_by_a_permutation(self) -> None:
        x = normal(1, 3, 2, 8)
        cos, sin = rope_cos_sin(np.array([[1, 5, 9]]), rope_frequencies(8, theta=100.0))
        to_half = [0, 2, 4, 6, 1, 3, 5, 7]
        interleaved = rotary_embedding(x, cos, sin, interleaved=True)
        np.testing.assert_allclose(interleaved[..., to_half], rotary_embedding(x[..., to_half], cos, sin), rtol=1e-14)

    def test_t1_products_and_sums_round_in_the_models_format(self) -> None:
        def low(array: np.ndarray) -> np.ndarray:
            return array.astype(ml_dtypes.bfloat16)

        x, (cos, sin) = normal(1, 3, 2, 8, dtype="float32"), rope_cos_sin(np.array([[1, 5, 9]]), rope_frequencies(8, theta=9.0))
        a, b, c, s = low(x[..., :4]), low(x[..., 4:]), low(cos)[:, :, None], low(sin)[:, :, None]
        expected = np.concatenate([a * c - b * s, b * c + a * s], axis=-1).astype(np.float32)
        y = rotary_embedding(*(low_precision(array, ml_dtypes.bfloat16) for array in (x, cos, sin)))
        np.testing.assert_array_equal(plain(y), expected)

    @pytest.mark.parametrize(
        ("x", "cos", "sin", "message"),
        [
            ((1, 2, 3, 8), (1, 2, 5), (1, 2, 5), "cos has 5 pairs, which rotate 10 entries, but heads have 8"),
            ((1, 2, 3, 8), (1, 2, 4), (1, 2, 3), r"sin has shape \(1, 2, 3\) but needs \[B, T, P\] with P = 4 as in cos"),
            ((1, 2, 3, 8), (1, 3, 4), (1, 3, 4), r"cos has shape \(1, 3, 4\) but needs \[B, T, P\] with T = 2 as in x"),
            ((2, 3, 8), (1, 2, 4), (1, 2, 4), r"x has shape \(2, 3, 8\) but needs \[B, T, H, K\]"),
        ],
    )
    def test_bad_shapes_are_one_sentence(self, x, cos, sin, message: str) -> None:
        with pytest.raises(ValueError, match=f"rotary_embedding: {message}"):
            rotary_embedding(np.ones(x), np.ones(cos), np.ones(sin))

    def test_mixed_formats_are_one_sentence(self) -> None:
        cos = np.ones((1, 2, 4), np.float32)
        with pytest.raises(ValueError, match="rotary_embedding: cos has dtype float32 but x has float64; they must be equal"):
            rotary_embedding(np.ones((1, 2, 3, 8)), cos, cos)


class TestPositionEmbedding:
    TABLE = np.arange(12.0).reshape(4, 3)

    def test_r1_each_position_takes_its_own_row(self) -> None:
        y = position_embedding(np.array([[3, 0, 1], [2, 2, 2]]), self.TABLE)
        assert y.tolist() == [[[9, 10, 11], [0, 1, 2], [3, 4, 5]], [[6, 7, 8]] * 3]

    def test_r2_padding_takes_row_zero(self) -> None:
        assert position_embedding(np.array([[-1]]), self.TABLE).tolist() == [[[0, 1, 2]]]

    def test_r2_a_position_beyond_the_table_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="position_embedding: position 4 is out of range: the table has 4 positions"):
            position_embedding(np.array([[0, 4]]), self.TABLE)

    def test_no_positions_give_no_rows(self) -> None:
        assert position_embedding(np.zeros((2, 0), int), self.TABLE).shape == (2, 0, 3)

    def test_positions_must_be_integers(self) -> None:
        with pytest.raises(ValueError, match="position_embedding: positions has dtype float64 but needs integers"):
            position_embedding(np.array([[1.0]]), self.TABLE)
