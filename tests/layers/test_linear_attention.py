"""Linear attention against its recurrence written out number by number."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl import layers
from refimpl.layers import delta_rule, gated_delta_rule, linear_attention, softplus_decay
from refimpl.numerics import low_precision, plain
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16
B, T, G, H, K, J = 2, 5, 2, 6, 4, 3
RULES = ("linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule")
KINDS = [(rule, channel) for rule in RULES for channel in ((False, True) if rule.startswith("gated") else (False,))]
every_kind = pytest.mark.parametrize(("rule", "channel"), KINDS)


def unit(*shape: int, seed: int) -> np.ndarray:
    vectors = normal(*shape, seed=seed)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def inputs(rule: str, channel: bool, *, length: int = T) -> dict[str, np.ndarray]:
    given = {"q": unit(B, length, G, K, seed=1), "k": unit(B, length, G, K, seed=2), "v": normal(B, length, H, J, seed=3)}
    if rule.startswith("gated"):
        given["g"] = -np.exp(normal(*((B, length, H, K) if channel else (B, length, H)), seed=4))
    if "delta" in rule:
        given["beta"] = 1 / (1 + np.exp(-normal(B, length, H, seed=5)))
    return given


def run(rule: str, given: dict[str, np.ndarray], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return layers.VOCABULARY[rule](*given.values(), scale=0.7, **options)


def columns(given: dict[str, np.ndarray], here: slice) -> dict[str, np.ndarray]:
    return {name: array[:, here] for name, array in given.items()}


def by_hand(given: dict[str, np.ndarray], state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One number at a time."""
    q, k, v, g, beta = (given.get(name) for name in ("q", "k", "v", "g", "beta"))
    assert q is not None
    assert k is not None
    assert v is not None
    S = np.zeros((B, H, K, J)) if state is None else state.copy()
    y = np.zeros(v.shape)
    for b, h, t in product(range(B), range(H), range(v.shape[1])):
        key, query = k[b, t, h // (H // G)], q[b, t, h // (H // G)]
        for i, j in product(range(K), range(J)):
            S[b, h, i, j] *= 1 if g is None else math.exp(g[b, t, h, i] if g.ndim == 4 else g[b, t, h])
        for j in range(J):
            written = v[b, t, h, j]
            if beta is not None:
                written = beta[b, t, h] * (written - sum(S[b, h, i, j] * key[i] for i in range(K)))
            for i in range(K):
                S[b, h, i, j] += key[i] * written
            y[b, t, h, j] = 0.7 * sum(S[b, h, i, j] * query[i] for i in range(K))
    return y, S


class TestRecurrence:
    @every_kind
    @pytest.mark.parametrize("from_before", [False, True])
    def test_it_is_the_recurrence(self, rule: str, channel: bool, from_before: bool) -> None:
        given, state = inputs(rule, channel), normal(B, H, K, J, seed=6) if from_before else None
        for found, expected in zip(run(rule, given, state=state), by_hand(given, state), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-14)

    @every_kind
    def test_r4_pieces_of_any_lengths_give_the_whole(self, rule: str, channel: bool) -> None:
        given, state = inputs(rule, channel), normal(B, H, K, J, seed=6)
        whole, last = run(rule, given, state=state)
        for cut in range(1, T):
            first, between = run(rule, columns(given, slice(cut)), state=state)
            second, after = run(rule, columns(given, slice(cut, None)), state=between)
            np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
            np.testing.assert_array_equal(after, last)

    @every_kind
    @pytest.mark.parametrize("places", [[-1, -1, 0, 1, 2], [0, 1, 2, -1, -1], [0, -1, 1, -1, 2], [-1] * 5])
    def test_r3_padding_changes_nothing_and_gives_nothing(self, rule: str, channel: bool, places: list[int]) -> None:
        given, state = inputs(rule, channel), normal(B, H, K, J, seed=6)
        real = np.array(places) >= 0
        y, after = run(rule, given, state=state, order=np.array([places] * B))
        kept = {name: array[:, real] for name, array in given.items()}
        expected, last = run(rule, kept, state=state)
        np.testing.assert_array_equal(y[:, real], expected)
        np.testing.assert_array_equal(y[:, ~real], 0)
        np.testing.assert_array_equal(after, last)

    def test_padding_may_hold_anything(self) -> None:
        given = inputs("gated_delta_rule", False)
        for array in given.values():
            array[:, 1] = np.nan
        order = np.array([[0, -1, 1, 2, 3]] * B)
        for found in run("gated_delta_rule", given, order=order):
            assert np.isfinite(found).all()

    @every_kind
    def test_arguments_are_not_written_into(self, rule: str, channel: bool) -> None:
        given, state = inputs(rule, channel), normal(B, H, K, J, seed=6)
        for array in (*given.values(), state):
            array.flags.writeable = False
        run(rule, given, state=state)


class TestRules:
    def test_r2_value_heads_of_a_group_are_neighbours(self) -> None:
        given = inputs("delta_rule", False)
        many = {name: np.stack([given[name][:, :, h // 3] for h in range(H)], axis=2) for name in ("q", "k")}
        np.testing.assert_array_equal(run("delta_rule", given | many)[0], run("delta_rule", given)[0])

    def test_r1_a_token_reads_what_it_has_written(self) -> None:
        given = columns(inputs("linear_attention", False), slice(1))
        y = linear_attention(given["k"], given["k"], given["v"], scale=1.0)[0]
        np.testing.assert_allclose(y, given["v"], atol=1e-14)

    def test_r5_the_decay_comes_before_its_own_token_writes(self) -> None:
        given = columns(inputs("gated_linear_attention", False), slice(1))
        given["g"] = np.full_like(given["g"], -50.0)
        np.testing.assert_array_equal(
            run("gated_linear_attention", given)[0],
            run("linear_attention", columns({name: given[name] for name in "qkv"}, slice(None)))[0],
        )

    def test_r6_equal_channels_decay_as_a_head(self) -> None:
        given = inputs("gated_delta_rule", False)
        each = given | {"g": np.repeat(given["g"][..., None], K, axis=-1)}
        np.testing.assert_array_equal(run("gated_delta_rule", each)[0], run("gated_delta_rule", given)[0])

    def test_r5_a_repeated_key_overwrites(self) -> None:
        key = np.broadcast_to(unit(K, seed=1), (1, 4, 1, K))
        v, ones = normal(1, 4, 1, J), np.ones((1, 4, 1))
        y, state = delta_rule(key, key, v, ones, scale=1.0)
        np.testing.assert_allclose(y, v, atol=1e-14)
        np.testing.assert_allclose(state[0, 0], np.outer(key[0, 0, 0], v[0, -1, 0]), atol=1e-14)

    def test_r5_orthonormal_keys_give_back_what_they_wrote(self) -> None:
        keys = np.linalg.qr(normal(K, K))[0][None, :, None]
        v, ones = normal(1, K, 1, J), np.ones((1, K, 1))
        _, state = gated_delta_rule(keys, keys, v, 0 * ones, ones, scale=1.0)
        np.testing.assert_allclose(delta_rule(keys, keys, v, 0 * ones, state, scale=1.0)[0], v, atol=1e-14)

    def test_r6_with_beta_zero_only_decay_is_left(self) -> None:
        given, state = inputs("gated_delta_rule", True), normal(B, H, K, J)
        given["beta"] = np.zeros_like(given["beta"])
        expected = state * np.exp(given["g"].sum(axis=1))[..., None]
        np.testing.assert_allclose(run("gated_delta_rule", given, state=state)[1], expected, rtol=1e-13)

    def test_r7_the_correction_looks_at_the_decayed_state(self) -> None:
        given, state = columns(inputs("gated_delta_rule", False), slice(1)), normal(B, H, K, J)
        decayed = np.exp(given["g"])[:, 0, :, None, None] * state
        rest = {name: array for name, array in given.items() if name != "g"}
        np.testing.assert_allclose(
            run("gated_delta_rule", given, state=state)[1], run("delta_rule", rest, state=decayed)[1], atol=1e-15
        )

    @pytest.mark.parametrize("rule", ["linear_attention", "delta_rule"])
    def test_r8_without_decay_it_is_the_rule_that_never_forgets(self, rule: str) -> None:
        given = inputs(rule, False)
        zeros = {name: given[name] for name in "qkv"} | {"g": np.zeros((B, T, H))} | given
        ordered = {name: zeros[name] for name in ("q", "k", "v", "g", "beta") if name in zeros}
        np.testing.assert_array_equal(run(f"gated_{rule}", ordered)[0], run(rule, given)[0])


class TestPrecision:
    @every_kind
    def test_t1_t2_float32_inside_one_rounding_of_the_result_and_none_of_the_state(self, rule: str, channel: bool) -> None:
        given = {name: np.float32(array) for name, array in inputs(rule, channel).items()}
        rounded = {name: low_precision(array, BF16) for name, array in given.items() if name != "g"}
        narrow = {name: rounded.get(name, array) for name, array in given.items()}
        state = np.float32(normal(B, H, K, J))
        y, after = run(rule, narrow, state=state)
        expected, last = run(rule, {name: plain(array) for name, array in narrow.items()}, state=state)
        np.testing.assert_array_equal(plain(y), expected.astype(BF16).astype(np.float32))
        np.testing.assert_array_equal(after, last)
        assert type(after) is np.ndarray
        assert not np.array_equal(after, after.astype(BF16).astype(np.float32))

    @every_kind
    def test_float32_is_near_float64_after_many_tokens(self, rule: str, channel: bool) -> None:
        given = inputs(rule, channel, length=200)
        single = {name: np.float32(array) for name, array in given.items()}
        exact = run(rule, {name: np.float64(array) for name, array in single.items()})
        for found, expected in zip(run(rule, single), exact, strict=True):
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


class TestSoftplusDecay:
    def test_it_is_the_formula(self) -> None:
        a, rates, bias = normal(2, 3, 2), normal(2, seed=1), normal(2, seed=2)
        for b, t, h in product(range(2), range(3), range(2)):
            expected = -math.exp(rates[h]) * math.log(1 + math.exp(a[b, t, h] + bias[h]))
            np.testing.assert_allclose(softplus_decay(a, rates, bias)[b, t, h], expected, rtol=1e-13)

    def test_r3_a_channel_has_its_bias_and_its_heads_rate(self) -> None:
        a, rates, bias = normal(1, 1, 2, 3), normal(2, seed=1), normal(6, seed=2)
        for h, k in product(range(2), range(3)):
            alone = softplus_decay(a[:, :, h : h + 1, k], rates[h : h + 1], bias[3 * h + k : 3 * h + k + 1])
            np.testing.assert_allclose(softplus_decay(a, rates, bias)[0, 0, h, k], alone[0, 0, 0], rtol=1e-13)

    def test_r1_r2_any_finite_number_has_a_finite_decay_not_above_zero(self) -> None:
        a = np.array([-1e30, -30.0, 0.0, 30.0, 1e30])[None, :, None]
        g = softplus_decay(a, np.zeros(1), np.zeros(1))[0, :, 0]
        np.testing.assert_allclose(g, [0, -math.log1p(math.exp(-30)), -math.log(2), -30 - math.exp(-30), -1e30], rtol=1e-13)

    def test_t1_it_stays_in_float32(self) -> None:
        a = low_precision(np.float32(normal(2, 3, 2)), BF16)
        rates, bias = np.float32(normal(2, seed=1)), np.float32(normal(2, seed=2))
        g = softplus_decay(a, rates, bias)
        assert type(g) is np.ndarray
        np.testing.assert_array_equal(g, softplus_decay(plain(a), rates, bias))


def attend(rule: str = "gated_delta_rule", **changes: Any) -> Any:
    given = inputs("gated_delta_rule", False)
    arguments = {name: changes.pop(name, given[name]) for name in given}
    return layers.VOCABULARY[rule](**arguments, **{"scale": 0.7, **changes})


WRONG = {
    r"gated_delta_rule: k has shape \(2, 5, 3, 4\) but needs": {"k": np.zeros((B, T, 3, K))},
    r"gated_delta_rule: v has 5 heads, which the 2 heads of k do not divide": {
        "v": np.zeros((B, T, 5, J)),
        "g": np.zeros((B, T, 5)),
        "beta": np.zeros((B, T, 5)),
    },
    r"gated_delta_rule: g has shape \(2, 5, 6, 3\) but needs": {"g": np.zeros((B, T, H, J))},
    r"gated_delta_rule: beta has shape \(2, 5, 6, 1\) but needs": {"beta": np.zeros((B, T, H, 1))},
    r"gated_delta_rule: state has shape \(2, 6, 3, 4\) but needs": {"state": np.zeros((B, H, J, K))},
    r"gated_delta_rule: order has shape \(2, 4\) but needs": {"order": np.zeros((B, T - 1), int)},
    r"gated_delta_rule: order has dtype float64 but needs": {"order": np.zeros((B, T))},
    r"gated_delta_rule: beta has dtype float32 but": {"beta": np.zeros((B, T, H), np.float32)},
    r"gated_delta_rule: v has dtype int64 but needs": {"v": np.zeros((B, T, H, J), int)},
    r"gated_delta_rule: scale is '1' but needs": {"scale": "1"},
    r"gated_delta_rule: scale is nan but needs": {"scale": math.nan},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_call_ends_in_one_sentence(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        attend(**WRONG[sentence])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (((2, 3), (3,), (3,)), r"softplus_decay: a has shape \(2, 3\) but needs"),
        (((1, 2, 3), (2,), (3,)), r"softplus_decay: a_log has shape \(2,\) but needs"),
        (((1, 2, 3), (3,), (6,)), r"softplus_decay: dt_bias has shape \(6,\) but needs 3 entries, one for each of a"),
        (((1, 2, 3, 2), (3,), (3,)), r"softplus_decay: dt_bias has shape \(3,\) but needs 6 entries, one for each of a"),
        (((1, 2, 3, 2), (3,), (3, 2)), r"softplus_decay: dt_bias has shape \(3, 2\) but needs"),
    ],
)
def test_a_wrong_decay_ends_in_one_sentence(shapes: tuple[tuple[int, ...], ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        softplus_decay(*map(np.zeros, shapes))
