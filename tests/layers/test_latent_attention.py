"""Latent attention: its two forms against each other and against a loop, head by head, over keys made one at a time."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import attention, expand_latent, latent_attention, latent_attention_expanded
from refimpl.numerics import low_precision, plain
from tests import loops
from tests.tiny import normal

FORMS = pytest.mark.parametrize("form", [latent_attention, latent_attention_expanded])
NAMES = ("q", "latent", "k_rope", "weight")


def arrays(
    B: int = 2, T: int = 3, S: int = 5, H: int = 4, N: int = 6, P: int = 2, J: int = 7, L: int = 8, *, seed: int = 0
) -> dict[str, Any]:
    """q, latents, rotated keys and the weight, hot enough that the softmax is far from uniform."""
    return {
        "q": normal(B, T, H, N + P, seed=seed),
        "latent": normal(B, S, L, seed=seed + 1),
        "k_rope": 2 * normal(B, S, P, seed=seed + 2),
        "weight": normal(H * (N + J), L, seed=seed + 3),
    }


def expanded_by_hand(latent: np.ndarray, k_rope: np.ndarray, weight: np.ndarray, *, heads: int, nope: int) -> Any:
    """The key and the value of every head of every token, one row of the weight at a time."""
    rows = len(weight) // heads
    k = np.zeros((*latent.shape[:2], heads, nope + k_rope.shape[2]))
    v = np.zeros((*latent.shape[:2], heads, rows - nope))
    for h in range(heads):
        for row in range(rows):
            made = sum(weight[h * rows + row, i] * latent[..., i] for i in range(latent.shape[2]))
            if row < nope:
                k[:, :, h, row] = made
            else:
                v[:, :, h, row - nope] = made
        k[:, :, h, nope:] = k_rope
    return k, v


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of any sizes and options: keys stored in any order, some of them padding, temperature and bias."""
    B, T, extra, H, N, P, J, L = (
        draw(st.integers(low, 3), label=name) for name, low in zip("BTEHNPJL", [1, 0, 0, 1, 1, 1, 1, 1], strict=True)
    )
    S, seed = T + extra, draw(st.integers(0, 999), label="seed")
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"scale": draw(st.sampled_from([0.3, 1.0, -0.7])), "causal": draw(st.booleans())}
    if draw(st.booleans(), label="temperature"):
        options["temperature"] = rng.uniform(-2, 2, (B, T))
    bias = draw(st.sampled_from([None, (B, H, T, S), (B, 1, T, S), (S,)]), label="bias")
    if bias is not None:
        options["bias"] = rng.standard_normal(bias)
    if draw(st.booleans(), label="places"):
        options["q_order"] = rng.integers(-1, S + 2, (B, T))
        options["k_order"] = np.array([rng.permutation(S) for _ in range(B)]).reshape(B, S) * rng.choice([1, 1, -1], (B, S))
    return arrays(B, T, S, H, N, P, J, L, seed=seed), options


class TestExpandLatent:
    def test_equals_the_loop(self) -> None:
        given = arrays()
        found = expand_latent(given["latent"], given["k_rope"], given["weight"], heads=4, v_head_dim=7)
        expected = expanded_by_hand(given["latent"], given["k_rope"], given["weight"], heads=4, nope=6)
        for actual, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-14)

    def test_r1_the_rows_of_a_head_stand_together(self) -> None:
        k, v = expand_latent(np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.arange(10.0)[:, None], heads=2, v_head_dim=3)
        assert k[0, 0].tolist() == [[0, 1, 1], [5, 6, 1]]
        assert v[0, 0].tolist() == [[2, 3, 4], [7, 8, 9]]

    def test_r2_a_key_is_its_unrotated_part_then_the_rotated_one(self) -> None:
        given = arrays()
        sizes = {"heads": 4, "v_head_dim": 7}
        k, v = expand_latent(given["latent"], given["k_rope"], given["weight"], **sizes)
        without, same = expand_latent(given["latent"], 0 * given["k_rope"], given["weight"], **sizes)
        np.testing.assert_array_equal(k[..., :6], without[..., :6])
        np.testing.assert_array_equal(v, same)
        assert (without[..., 6:] == 0).all()

    def test_r3_every_head_has_the_same_rotated_part_as_it_came(self) -> None:
        given = arrays()
        k, _ = expand_latent(given["latent"], given["k_rope"], given["weight"], heads=4, v_head_dim=7)
        for head in range(4):
            np.testing.assert_array_equal(k[:, :, head, 6:], given["k_rope"])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"heads": 3}, "weight has 52 rows but 3 heads need equally many each, of which 7 of values"),
            ({"v_head_dim": 14}, "weight has 52 rows but 4 heads need equally many each, of which 14 of values"),
            ({"heads": 0}, "heads is 0 but needs a positive integer"),
            ({"latent": normal(2, 5, 9)}, "weight has shape (52, 8) but needs [R, L] with L = 9 as in latent"),
            ({"k_rope": normal(2, 4, 2)}, "k_rope has shape (2, 4, 2) but needs [B, S, P] with S = 5 as in latent"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, changes: dict[str, Any], message: str) -> None:
        given = {name: array for name, array in arrays().items() if name != "q"}
        with pytest.raises(ValueError, match=f"^expand_latent: {re.escape(message)}"):
            expand_latent(**{**given, "heads": 4, "v_head_dim": 7, **changes})


class TestLatentAttention:
    """Both forms."""

    @given(problems())
    def test_r1_they_are_equal_and_equal_the_loop(self, problem: Any) -> None:
        given, options = problem
        nope = given["q"].shape[3] - given["k_rope"].shape[2]
        sizes = {"heads": given["q"].shape[2], "nope": nope}
        k, v = expanded_by_hand(given["latent"], given["k_rope"], given["weight"], **sizes)
        expected = loops.attention(given["q"], k, v, **options)
        for form in (latent_attention, latent_attention_expanded):
            np.testing.assert_allclose(form(**given, **options), expected, rtol=1e-11, atol=1e-12)

    def test_r2_it_is_attention_with_one_key_head_where_the_matrices_are_identities(self) -> None:
        given = arrays(H=3, N=4, J=4, L=4)
        given["weight"] = np.concatenate([np.eye(4)] * 6)
        k = np.concatenate([given["latent"], given["k_rope"]], axis=-1)[:, :, None]
        expected = attention(given["q"], k, given["latent"][:, :, None], scale=0.4)
        np.testing.assert_allclose(latent_attention(**given, scale=0.4), expected, rtol=1e-12)

    @FORMS
    def test_r3_the_scale_is_the_given_one(self, form: Any) -> None:
        given = arrays()
        hotter = {**given, "q": 3 * given["q"]}
        np.testing.assert_allclose(form(**given, scale=0.9), form(**hotter, scale=0.3), rtol=1e-12)

    @FORMS
    def test_r4_a_query_that_sees_no_key_returns_zeros(self, form: Any) -> None:
        order = {"q_order": np.array([[-1, 0, 2]] * 2), "k_order": np.array([[-1, 1, 2, -1, 3]] * 2)}
        with np.errstate(all="raise"):
            y = form(**arrays(), scale=1.0, **order)
        np.testing.assert_array_equal(y[:, :2], 0)
        assert (y[:, 2] != 0).all()

    @FORMS
    def test_r4_a_later_token_changes_nothing(self, form: Any) -> None:
        given = arrays(T=5)
        changed = {**given, "latent": given["latent"].copy(), "k_rope": given["k_rope"].copy()}
        changed["latent"][:, 4] = changed["k_rope"][:, 4] = 50.0
        np.testing.assert_array_equal(form(**changed, scale=1.0)[:, :4], form(**given, scale=1.0)[:, :4])

    @FORMS
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_dtype_is_kept(self, form: Any, dtype: str) -> None:
        y = form(**{name: array.astype(dtype) for name, array in arrays().items()}, scale=0.3)
        assert (y.dtype, y.shape) == (np.dtype(dtype), (2, 3, 4, 7))

    @FORMS
    def test_low_precision_is_near(self, form: Any) -> None:
        given = {name: low_precision(array, ml_dtypes.bfloat16) for name, array in arrays().items()}
        exact = form(**{name: plain(array).astype(np.float64) for name, array in given.items()}, scale=0.2)
        rounded = plain(form(**given, scale=0.2)).astype(np.float64)
        assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()

    @FORMS
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"q": normal(2, 3, 5, 8)}, "weight has 52 rows but 5 heads of q need equally many each"),
            ({"q": normal(2, 3, 4, 1)}, "q has heads of 1 entries, which is fewer than the 2 of k_rope"),
            ({"q": normal(2, 3, 4, 15)}, "weight has 52 rows but 4 heads of q need equally many each, 13 of a key"),
            ({"q": normal(2, 6, 4, 8)}, "6 queries but 5 keys: without q_order and k_order the queries are the last keys"),
            ({"latent": normal(2, 5, 9)}, "weight has shape (52, 8) but needs [R, L] with L = 9 as in latent"),
            ({"bias": normal(3, 4)}, "bias has shape (3, 4) but needs one broadcastable to (2, 4, 3, 5)"),
            ({"temperature": normal(2, 4)}, "temperature has shape (2, 4) but needs [B, T] with T = 3 as in q"),
            ({"q_order": normal(2, 3)}, "q_order has dtype float64 but needs integers"),
            ({"scale": np.inf}, "scale is inf but needs a finite number"),
            ({"k_rope": normal(2, 5, 2, dtype="float32")}, "k_rope has dtype float32 but q has float64"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, form: Any, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{form.__name__}: {re.escape(message)}"):
            form(**{**arrays(), "scale": 0.3, **changes})
