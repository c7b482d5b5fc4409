"""The switches of attention: each against a loop over tokens in which it is written out, and as the calls that it makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from refimpl.blocks import Attention, Inputs, LogFloor, LogLength, RMSNorm, Rope, StateEntry
from refimpl.ops import NumpyOps
from tests import loops
from tests.blocks.test_wiring import Calls, Named, attention
from tests.tiny import normal

ROPE = Rope(rotary_dim=2, theta=10.0)
NORM = RMSNorm(size=3, eps=0.25)
LENGTH = 9


def inputs_of(mixer: Attention, order: np.ndarray, past: int = 0, **changes: Any) -> Inputs:
    """What the blueprint would hand to a layer for the tokens at `order` [B, S] of which the first `past` are in the cache."""
    positions = np.maximum(order[:, past:], 0)
    ops, temperature = NumpyOps(), mixer.temperature
    return Inputs(
        q_order=order[:, past:],
        k_order=order,
        past_order=order[:, :past] if past else None,
        rotations={ROPE: ops.rope_cos_sin(positions, ROPE.frequencies(np.float64))},
        temperatures={} if temperature is None else {temperature: temperature(ops, positions, np.dtype(np.float64))},
        **changes,
    )


def drawn(mixer: Attention) -> dict[str, np.ndarray]:
    return {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(mixer.parameters().items())}


def run(mixer: Attention, x: np.ndarray, weights: dict[str, np.ndarray] | None = None) -> np.ndarray:
    order = np.tile(np.arange(x.shape[1]), (len(x), 1))
    return mixer(NumpyOps(), drawn(mixer) if weights is None else weights, x, inputs_of(mixer, order), None)[0]


def loop(mixer: Attention, x: np.ndarray, temperature: list[float] | None = None) -> np.ndarray:
    """One row [T, D], one token and one head after the other."""
    weights, tokens = drawn(mixer), len(x)
    heads = {"q": mixer.heads, "k": mixer.kv_heads, "v": mixer.kv_heads}

    def normed(name: str, row: np.ndarray) -> np.ndarray:
        return loops.rms_norm(row, weights.get(f"{name}_norm.weight", np.ones(row.size)), mixer.qk_norm.eps)

    def project(name: str, t: int) -> np.ndarray:
        flat = weights[f"{name}_proj.weight"] @ x[t] + weights.get(f"{name}_proj.bias", 0)
        if name == "v":
            return flat.reshape(heads[name], -1)
        if mixer.qk_norm and mixer.qk_norm_over == "projection":
            flat = normed(name, flat)
        rows = list(flat.reshape(heads[name], -1))
        if mixer.qk_norm and mixer.qk_norm_over == "head":
            rows = [normed(name, row) for row in rows]
        if mixer.rope:
            rows = [np.array(loops.rotate(row.tolist(), [float(t)])) for row in rows]
        if mixer.qk_norm and mixer.qk_norm_over == "rotated_head":
            rows = [normed(name, row) for row in rows]
        return np.array(rows)

    q, k, v = (np.array([project(name, t) for t in range(tokens)])[None] for name in "qkv")
    mixed = loops.attention(
        q, k, v, scale=mixer.scale, window=mixer.window, chunk=mixer.chunk, softcap=mixer.softcap, sinks=weights.get("sinks"),
        temperature=None if temperature is None else np.array([temperature]),
    )  # fmt: skip
    return np.array([weights["o_proj.weight"] @ row.ravel() + weights.get("o_proj.bias", 0) for row in mixed[0]])


TEMPERATURES = {
    LogLength(length=3): [1, 1, 1, 1, *(math.log(t) / math.log(3) for t in range(4, LENGTH))],
    LogFloor(scale=0.5, floor=4): [1 + 0.5 * math.log(1 + (t + 1) // 4) for t in range(LENGTH)],
    LogFloor(scale=-0.3, floor=2, offset=0): [1 - 0.3 * math.log(1 + t // 2) for t in range(LENGTH)],
}
SWITCHES: dict[str, dict[str, Any]] = {
    "sinks": {"sinks": True},
    "softcap": {"softcap": 0.75},
    "window": {"window": 3},
    "chunk": {"chunk": 4},
    "biases": {"qkv_bias": True, "output_bias": True},
    "norm-head": {"qk_norm": NORM},
    "norm-projection": {"qk_norm": NORM, "qk_norm_over": "projection"},
    "norm-rotated-head": {"qk_norm": NORM, "qk_norm_over": "rotated_head"},
    "norm-weightless": {"qk_norm": RMSNorm(size=3, eps=0.25, weightless=True), "qk_norm_over": "rotated_head"},
}
EVERYTHING: dict[str, Any] = {
    "sinks": True, "softcap": 2.0, "chunk": 5, "qkv_bias": True, "output_bias": True,
    "qk_norm": NORM, "qk_norm_over": "projection", "temperature": LogFloor(scale=0.5, floor=4),
}  # fmt: skip


class TestSwitches:
    @pytest.mark.parametrize("rope", [None, ROPE], ids=["nope", "rope"])
    @pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES)
    def test_each_equals_the_loop_and_changes_the_result(self, options: dict, rope: Rope | None) -> None:
        mixer, x = attention(rope=rope, **options), normal(2, LENGTH, 10)
        found = run(mixer, x)
        for row, y in zip(x, found, strict=True):
            np.testing.assert_allclose(y, loop(mixer, row), rtol=1e-10, atol=1e-11)
        plain = attention(rope=rope)
        weights = {name: drawn(mixer)[name] for name in plain.parameters()}
        assert not np.allclose(run(plain, x, weights), found, rtol=1e-3)

    @pytest.mark.parametrize("temperature", TEMPERATURES, ids=str)
    def test_each_temperature_equals_the_loop(self, temperature: Any) -> None:
        mixer, x = attention(rope=ROPE, temperature=temperature), normal(1, LENGTH, 10)
        np.testing.assert_allclose(run(mixer, x)[0], loop(mixer, x[0], TEMPERATURES[temperature]), rtol=1e-10, atol=1e-11)

    def test_all_together_equal_the_loop(self) -> None:
        mixer, x = attention(rope=ROPE, **EVERYTHING), normal(1, LENGTH, 10)
        expected = loop(mixer, x[0], TEMPERATURES[EVERYTHING["temperature"]])
        np.testing.assert_allclose(run(mixer, x)[0], expected, rtol=1e-10, atol=1e-11)


class TestCalls:
    def test_a_norm_of_whole_projections_comes_before_the_heads_are_split(self) -> None:
        ops = Calls()
        mixer = attention(rope=ROPE, qk_norm=NORM, qk_norm_over="projection")
        mixer(ops, Named(), "x", Inputs(q_order="QO", k_order="KO", rotations={ROPE: ("C", "S")}), None)
        assert ops.calls[:10] == [
            "linear(x, q_proj.weight)", "rms_norm(q_proj, q_norm.weight, eps=0.25)", "split_heads(q_norm, heads=4)",
            "linear(x, k_proj.weight)", "rms_norm(k_proj, k_norm.weight, eps=0.25)", "split_heads(k_norm, heads=2)",
            "linear(x, v_proj.weight)", "split_heads(#6, heads=2)",
            "rotary_embedding(#2, C, S)", "rotary_embedding(#5, C, S)",
        ]  # fmt: skip

    def test_a_norm_of_rotated_heads_comes_after_the_rotation(self) -> None:
        ops = Calls()
        mixer = attention(rope=ROPE, qk_norm=NORM, qk_norm_over="rotated_head")
        mixer(ops, Named(), "x", Inputs(q_order="QO", k_order="KO", rotations={ROPE: ("C", "S")}), None)
        assert ops.calls[6:11] == [
            "rotary_embedding(q_proj, C, S)",
            "rotary_embedding(k_proj, C, S)",
            "rms_norm(q_rope, q_norm.weight, eps=0.25)",
            "rms_norm(k_rope, k_norm.weight, eps=0.25)",
            "attention(q_norm, k_norm, v_proj, scale=0.5, q_order=QO, k_order=KO)",
        ]

    def test_only_the_switches_that_are_set_are_handed_on(self) -> None:
        ops, temperature = Calls(), LogLength(length=3)
        mixer = attention(sinks=True, softcap=2.0, chunk=5, temperature=temperature)
        inputs = Inputs(q_order="QO", k_order="KO", rotations={}, temperatures={temperature: "TAU"})
        mixer(ops, Named(), "x", inputs, None)
        expected = "scale=0.5, q_order=QO, k_order=KO, chunk=5, softcap=2.0, temperature=TAU, sinks=sinks"
        assert ops.calls[6] == f"attention(q_proj, k_proj, v_proj, {expected})"

    @pytest.mark.parametrize("span", [{"window": 7}, {"chunk": 7}])
    def test_a_ring_is_kept_and_read_at_its_places(self, span: dict) -> None:
        ops = Calls()
        inputs = Inputs(q_order="QO", k_order="KO", past_order="PO", rotations={}, ring=True)
        _, state = attention(**span)(ops, Named(), "x", inputs, {"key": "K", "value": "V"})
        (option,) = (f"{name}={value}" for name, value in span.items())
        assert ops.calls[6:13] == [
            "append(K, k_proj)",
            "append(V, v_proj)",
            "ring_append(k_proj, KO, K, window=7)",
            "ring_append(v_proj, KO, V, window=7)",
            "ring_order(PO, window=7)",
            "append(#10, QO)",
            f"attention(q_proj, #6, #7, scale=0.5, q_order=QO, k_order=#11, {option})",
        ]
        assert state == {"key": "#8", "value": "#9"}

    def test_without_a_past_the_ring_is_written_and_all_tokens_are_read(self) -> None:
        ops = Calls()
        inputs = Inputs(q_order="QO", k_order="KO", rotations={}, ring=True)
        _, state = attention(window=7)(ops, Named(), "x", inputs, None)
        assert ops.calls[6:9] == [
            "ring_append(k_proj, KO, window=7)",
            "ring_append(v_proj, KO, window=7)",
            "attention(q_proj, k_proj, v_proj, scale=0.5, q_order=QO, k_order=KO, window=7)",
        ]
        assert state == {"key": "#6", "value": "#7"}

    def test_a_layer_that_sees_all_keeps_all(self) -> None:
        ops = Calls()
        inputs = Inputs(q_order="QO", k_order="KO", past_order="PO", rotations={}, ring=True)
        attention()(ops, Named(), "x", inputs, {"key": "K", "value": "V"})
        assert not any("ring" in call for call in ops.calls)


class TestDeclarations:
    @pytest.mark.parametrize(
        ("over", "sizes"), [("head", (3, 3)), ("rotated_head", (3, 3)), ("projection", (12, 6))]
    )  # fmt: skip
    def test_a_norm_is_as_wide_as_what_it_norms(self, over: str, sizes: tuple[int, int]) -> None:
        parameters = attention(qk_norm=NORM, qk_norm_over=over).parameters()
        assert (parameters["q_norm.weight"], parameters["k_norm.weight"]) == ((sizes[0],), (sizes[1],))
        assert "q_norm.weight" not in attention(qk_norm_over=over).parameters()

    def test_sinks_are_one_number_a_head(self) -> None:
        assert attention(sinks=True).parameters()["sinks"] == (4,)
        assert attention(sinks=True).num_parameters() == attention().num_parameters() + 4
        assert "sinks" not in attention().parameters()

    @pytest.mark.parametrize(
        ("options", "span"), [({}, None), ({"window": 5}, 5), ({"chunk": 6}, 6), ({"window": 5, "chunk": 4}, 4)]
    )  # fmt: skip
    def test_the_cache_is_bounded_by_the_span(self, options: dict, span: int | None) -> None:
        mixer = attention(**options)
        assert mixer.span == span
        assert mixer.state() == dict.fromkeys(("key", "value"), StateEntry(shape=(2, 3), window=span))

    def test_flops_count_the_keys_that_are_seen(self) -> None:
        matrices = 2 * (10 * 12 + 2 * 10 * 6 + 12 * 10)
        assert attention(sinks=True, qkv_bias=True).flops(50) == matrices + 4 * 50 * 12
        assert attention(window=5).flops(50) == attention(chunk=5).flops(50) == matrices + 4 * 5 * 12
        assert attention(window=5).flops(3) == matrices + 4 * 3 * 12


@pytest.mark.parametrize("options", [{"window": 3}, {"chunk": 4}, {**EVERYTHING, "rope": ROPE}, {"window": 5, "chunk": 4}])
@pytest.mark.parametrize("ring", [False, True])
def test_a_cache_in_pieces_equals_all_at_once(options: dict, ring: bool) -> None:
    mixer, x = attention(**options), normal(2, 11, 10)
    weights, order = drawn(mixer), np.stack([np.arange(11), np.array([-1, -1, 0, 1, -1, 2, 3, 4, 5, 6, 7])])
    whole, _ = mixer(NumpyOps(), weights, x, inputs_of(mixer, order), None)
    found, state = [], None
    for start, stop in ((0, 2), (2, 8), (8, 9), (9, 11)):
        inputs = inputs_of(mixer, order[:, :stop], start, ring=ring)
        y, state = mixer(NumpyOps(), weights, x[:, start:stop], inputs, state)
        found.append(y)
    real = order >= 0
    np.testing.assert_allclose(np.concatenate(found, axis=1)[real], whole[real], rtol=1e-12, atol=1e-13)
    assert state["key"].shape[1] == (mixer.span if ring else 11)


class TestOutputGate:
    """Each head of W_q is followed by a gate of its result."""

    def test_the_rows_of_a_head_are_its_query_and_then_its_gate(self) -> None:
        plain, gated = attention(), attention(output_gate=True)
        weights = drawn(gated)
        rows = weights["q_proj.weight"].reshape(4, 2, 3, 10)
        x = normal(2, 5, 10)
        mixed = run(plain, x, {**weights, "q_proj.weight": rows[:, 0].reshape(12, 10), "o_proj.weight": np.eye(12)})
        gate = np.einsum("btd,hkd->bthk", x, rows[:, 1]).reshape(2, 5, 12)
        expected = (mixed / (1 + np.exp(-gate))) @ weights["o_proj.weight"].T
        np.testing.assert_allclose(run(gated, x, weights), expected, rtol=1e-12, atol=1e-13)

    def test_only_the_query_is_normed_and_rotated(self) -> None:
        ops = Calls()
        ops.call = lambda name, *values, **options: ("Q", "G") if name == "split" else Calls.call(ops, name, *values, **options)
        mixer = attention(output_gate=True, rope=ROPE, qk_norm=NORM)
        mixer(ops, Named(), "x", Inputs(q_order="QO", k_order="KO", rotations={ROPE: ("C", "S")}), None)
        assert ops.calls[-2:] == ["merge_heads(gated_attention)", "linear(#12, o_proj.weight)"]
        assert "sigmoid_gate(attention, gate)" in ops.calls
        assert "rms_norm(Q, q_norm.weight, eps=0.25)" in ops.calls
        assert ops.taps[:2] == ["q_proj", "gate"]

    def test_parameters_and_operations(self) -> None:
        plain, gated = attention(qkv_bias=True), attention(qkv_bias=True, output_gate=True)
        shapes = {**plain.parameters(), "q_proj.weight": (24, 10), "q_proj.bias": (24,)}
        assert gated.parameters() == shapes
        assert gated.flops(7) == plain.flops(7) + 2 * 12 * 10
        assert gated.state() == plain.state()
