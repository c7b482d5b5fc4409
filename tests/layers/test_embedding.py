"""The two ends of a model."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import embedding, lm_head
from refimpl.numerics import low_precision, plain
from tests.tiny import normal

TABLE = np.arange(12.0).reshape(4, 3)


class TestEmbedding:
    def test_takes_the_rows_of_the_tokens(self) -> None:
        assert embedding(np.array([[3, 0], [1, 1]]), TABLE).tolist() == [[[9, 10, 11], [0, 1, 2]], [[3, 4, 5]] * 2]

    @pytest.mark.parametrize(("tokens", "low", "high"), [([[-1, 0]], -1, 0), ([[4, 1]], 1, 4), ([[0, 2**40]], 0, 2**40)])
    def test_r1_a_token_outside_the_vocabulary_is_an_error(self, tokens: list, low: int, high: int) -> None:
        with pytest.raises(ValueError, match=rf"embedding: tokens range from {low} to {high} but must lie in 0 \.\. 3"):
            embedding(np.array(tokens), TABLE)

    def test_r2_the_scale_multiplies_the_result_and_not_the_table(self) -> None:
        table = TABLE.copy()
        assert embedding(np.array([[2]]), table, scale=0.5).tolist() == [[[3, 3.5, 4]]]
        np.testing.assert_array_equal(table, TABLE)

    def test_t1_the_scale_is_rounded_first(self) -> None:
        # √2560 = 50.596 is 50.5 in bfloat16 (Gemma 3 4B), and 50.5 · 129 = 6514.5 rounds to 6528; 50.596 · 129 = 6526.9 too,
        # but 50.596 · 3 = 151.79 rounds to 152 and 50.5 · 3 = 151.5 to 151 or 152 (ties to even)
        table = low_precision(np.array([[3.0, 5.0, 129.0]]), ml_dtypes.bfloat16)
        y = plain(embedding(np.array([[0]]), table, scale=math.sqrt(2560)))
        expected = (np.array([3.0, 5.0, 129.0]) * 50.5).astype(ml_dtypes.bfloat16).astype(float)
        assert y[0, 0].tolist() == expected.tolist()
        assert (expected != (np.array([3.0, 5.0, 129.0]) * math.sqrt(2560)).astype(ml_dtypes.bfloat16).astype(float)).any()

    def test_no_tokens_give_no_rows(self) -> None:
        assert embedding(np.zeros((2, 0), int), TABLE).shape == (2, 0, 3)

    @pytest.mark.parametrize(
        ("tokens", "message"),
        [
            (np.array([1]), r"tokens has shape \(1,\) but needs \[B, T\]"),
            (np.array([[1.0]]), "tokens has dtype float64 but needs integers"),
            (np.array([[True]]), "tokens has dtype bool but needs integers"),
            ([[1]], r"tokens is a list but needs a NumPy array of shape \[B, T\]"),
        ],
    )
    def test_bad_tokens_are_one_sentence(self, tokens, message: str) -> None:
        with pytest.raises(ValueError, match=f"embedding: {message}"):
            embedding(tokens, TABLE)

    def test_the_table_must_be_of_floats(self) -> None:
        with pytest.raises(ValueError, match="embedding: weight has dtype int64 but needs float64 or float32"):
            embedding(np.array([[1]]), TABLE.astype(int))


@pytest.mark.parametrize("scale", [math.nan, "2"])
@pytest.mark.parametrize(
    "end", [lambda s: embedding(np.array([[0]]), TABLE, scale=s), lambda s: lm_head(TABLE[None], TABLE, scale=s)]
)
def test_a_wrong_scale_is_one_sentence(end, scale) -> None:
    with pytest.raises(ValueError, match=f"scale is {scale!r} but needs"):
        end(scale)


class TestLmHead:
    def test_rows_of_the_table_are_the_vocabulary(self) -> None:
        assert lm_head(np.array([[[1.0, 0.0, 2.0]]]), TABLE).tolist() == [[[4, 13, 22, 31]]]

    def test_r1_the_scale_comes_before_the_cap(self) -> None:
        x, weight = normal(2, 3, 4), normal(5, 4, seed=1)
        y = lm_head(x, weight, scale=3.0, softcap=2.0)
        for b, t, v in np.ndindex(2, 3, 5):
            logit = math.fsum(a * c for a, c in zip(x[b, t].tolist(), weight[v].tolist(), strict=True))
            assert math.isclose(y[b, t, v], 2 * math.tanh(3 * logit / 2), rel_tol=1e-12)

    @pytest.mark.parametrize(
        ("x", "weight", "message"),
        [
            ((2, 3), (5, 3), r"x has shape \(2, 3\) but needs \[B, T, D\]"),
            ((2, 3, 4), (4, 5), r"weight has shape \(4, 5\) but needs \[V, D\] with D = 4 as in x"),
        ],
    )
    def test_bad_shapes_are_one_sentence(self, x, weight, message: str) -> None:
        with pytest.raises(ValueError, match=f"lm_head: {message}"):
            lm_head(np.ones(x), np.ones(weight))
