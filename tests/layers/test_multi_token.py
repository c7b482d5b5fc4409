"""The input of a module for multi-token prediction."""

from __future__ import annotations

import numpy as np
import pytest

from refimpl.layers import multi_token_input
from tests.tiny import normal


class TestMultiTokenInput:
    def test_r1_the_embedding_comes_first(self) -> None:
        embedding, hidden = np.array([[[1.0, 2.0]]]), np.array([[[3.0, 4.0]]])
        weight = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 10.0], [1.0, 1.0, 0.0, 0.0]])
        assert multi_token_input(embedding, hidden, weight).tolist() == [[[1.0, 40.0, 3.0]]]

    def test_r2_every_row_is_a_pair_of_its_own(self) -> None:
        embedding, hidden, weight = normal(2, 5, 6), normal(2, 5, 6, seed=1), normal(6, 12, seed=2)
        whole = multi_token_input(embedding, hidden, weight)
        for place in range(5):
            one = slice(place, place + 1)
            alone = multi_token_input(embedding[:, one], hidden[:, one], weight)
            np.testing.assert_allclose(whole[:, one], alone, rtol=0, atol=1e-14)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (
                (normal(2, 3, 4), normal(2, 3, 5), normal(4, 8)),
                r"hidden has shape \(2, 3, 5\) but needs \[B, T, D\] with D = 4",
            ),
            (
                (normal(2, 3, 4), normal(2, 1, 4), normal(4, 8)),
                r"hidden has shape \(2, 1, 4\) but needs \[B, T, D\] with T = 3",
            ),
            ((normal(2, 3, 4), normal(2, 3, 4), normal(4, 9)), "weight has 9 columns but needs 8, for the embedding"),
            ((normal(2, 3, 4), normal(2, 3, 4, dtype="float32"), normal(4, 8)), "hidden has dtype float32 but embedding has"),
        ],
    )
    def test_what_does_not_fit_is_one_sentence(self, arrays: tuple[np.ndarray, ...], message: str) -> None:
        with pytest.raises(ValueError, match=f"^multi_token_input: {message}"):
            multi_token_input(*arrays)
