"""The token mixers on the gated delta rule: as the calls that they make, and against loops in which they are written out."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from refimpl.blocks import GatedDeltaNet, Inputs, KimiDeltaAttention, StateEntry
from refimpl.ops import NumpyOps
from tests.blocks.test_wiring import Calls, Named
from tests.tiny import normal

INPUTS = Inputs(q_order="QO", k_order="KO", rotations={})
STATE = {"conv_state": "C", "recurrent_state": "S"}
# 2 key heads of 3, 6 value heads of 5: 6 + 6 + 30 channels
NET = GatedDeltaNet(hidden_size=4, key_heads=2, value_heads=6, key_head_dim=3, value_head_dim=5, conv_width=7, norm_eps=0.25)
# 2 heads of 3
KIMI = KimiDeltaAttention(hidden_size=4, heads=2, head_dim=3, conv_width=7, norm_eps=0.25)
EVERY = pytest.mark.parametrize("mixer", [NET, KIMI], ids=["gated_delta_net", "kimi"])
TAPS = ["conv", "q", "k", "v", "log_decay", "beta", "delta_rule", "norm", "out_proj"]


class DeltaCalls(Calls):
    """Calls of which some give more than one value."""

    PARTS: ClassVar = {"causal_conv1d": 2, "gated_delta_rule": 2}

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        shown = super().call(name, *values, **options)
        count = len(options["sizes"]) if name == "split" else self.PARTS.get(name)
        return shown if count is None else tuple(f"{shown}.{part}" for part in range(count))


def calls(mixer: Any, state: dict[str, Any] | None = STATE) -> list[str]:
    """What a mixer calls; what it returns and keeps and how it names values is the same in all."""
    ops = DeltaCalls()
    y, kept = mixer(ops, Named(), "x", INPUTS, state)
    places = [index for index, call in enumerate(ops.calls) if call.startswith(("causal_conv1d", "gated_delta_rule"))]
    assert kept == {"conv_state": f"#{places[0]}.1", "recurrent_state": f"#{places[1]}.1"}
    assert (y, ops.taps) == ("out_proj", TAPS)
    return ops.calls


def test_gated_delta_net_ungroups_its_fused_projections() -> None:
    assert calls(NET) == [
        "linear(x, in_proj_qkvz.weight)",
        "split_heads(#0, heads=2)",
        "split(#1, sizes=(3, 3, 15, 15))",
        "merge_heads(#2.0)",
        "merge_heads(#2.1)",
        "merge_heads(#2.2)",
        "merge_heads(#2.3)",
        "linear(x, in_proj_ba.weight)",
        "split_heads(#7, heads=2)",
        "split(#8, sizes=(3, 3))",
        "merge_heads(#9.0)",
        "merge_heads(#9.1)",
        "concat(#3, #4, #5)",
        "causal_conv1d(#12, conv1d.weight, state=C, order=QO)",
        "silu(#13.0)",
        "split(conv, sizes=(6, 6, 30))",
        "split_heads(#15.0, heads=2)",
        "l2_norm(#16, eps=1e-06)",
        "split_heads(#15.1, heads=2)",
        "l2_norm(#18, eps=1e-06)",
        "split_heads(#15.2, heads=6)",
        "softplus_decay(#11, a_log, dt_bias)",
        "sigmoid(#10)",
        f"gated_delta_rule(q, k, v, log_decay, beta, state=S, order=QO, scale={3**-0.5})",
        "split_heads(#6, heads=6)",
        "gated_rms_norm(delta_rule, #24, norm.weight, eps=0.25)",
        "merge_heads(norm)",
        "linear(#26, out_proj.weight)",
    ]


def test_kimi_has_projections_of_their_own_and_a_sigmoid() -> None:
    assert calls(KIMI) == [
        "linear(x, q_proj.weight)",
        "linear(x, k_proj.weight)",
        "linear(x, v_proj.weight)",
        "concat(#0, #1, #2)",
        "linear(x, b_proj.weight)",
        "linear(x, f_a_proj.weight)",
        "linear(#5, f_b_proj.weight)",
        "split_heads(#6, heads=2)",
        "causal_conv1d(#3, conv1d.weight, state=C, order=QO)",
        "silu(#8.0)",
        "split(conv, sizes=(6, 6, 6))",
        "split_heads(#10.0, heads=2)",
        "l2_norm(#11, eps=1e-06)",
        "split_heads(#10.1, heads=2)",
        "l2_norm(#13, eps=1e-06)",
        "split_heads(#10.2, heads=2)",
        "softplus_decay(#7, a_log, dt_bias)",
        "sigmoid(#4)",
        f"gated_delta_rule(q, k, v, log_decay, beta, state=S, order=QO, scale={3**-0.5})",
        "linear(x, g_a_proj.weight)",
        "linear(#19, g_b_proj.weight)",
        "split_heads(#20, heads=2)",
        "gated_rms_norm(delta_rule, #21, norm.weight, eps=0.25, activation=sigmoid)",
        "merge_heads(norm)",
        "linear(#23, o_proj.weight)",
    ]


@EVERY
def test_without_a_past_there_are_no_states(mixer: Any) -> None:
    found = [call for call in calls(mixer, None) if "state=" in call]
    assert len(found) == 2
    assert all("state=None, order=QO" in call for call in found)


def test_parameters_and_states() -> None:
    assert NET.parameters() == {
        "in_proj_qkvz.weight": (72, 4),
        "in_proj_ba.weight": (12, 4),
        "conv1d.weight": (42, 7),
        "a_log": (6,),
        "dt_bias": (6,),
        "norm.weight": (5,),
        "out_proj.weight": (4, 30),
    }
    assert KIMI.parameters() == {
        **dict.fromkeys(("q_proj.weight", "k_proj.weight", "v_proj.weight"), (6, 4)),
        **dict.fromkeys(("f_a_proj.weight", "g_a_proj.weight"), (3, 4)),
        **dict.fromkeys(("f_b_proj.weight", "g_b_proj.weight"), (6, 3)),
        "b_proj.weight": (2, 4),
        "conv1d.weight": (18, 7),
        "a_log": (2,),
        "dt_bias": (6,),
        "norm.weight": (3,),
        "o_proj.weight": (4, 6),
    }
    for mixer, channels, matrices in ((NET, 42, (6, 3, 5)), (KIMI, 18, (2, 3, 3))):
        assert mixer.state() == {
            "conv_state": StateEntry(shape=(channels, 6), grows=False),
            "recurrent_state": StateEntry(shape=matrices, grows=False, dtype="float32"),
        }


def test_operations_do_not_depend_on_the_context() -> None:
    # projections, taps of the convolution, and three products with each matrix of the state
    assert NET.flops(9) == NET.flops(0) == 2 * (72 * 4 + 12 * 4 + 42 * 7 + 4 * 30) + 3 * 2 * 6 * 3 * 5
    assert KIMI.flops(9) == KIMI.flops(0) == 2 * (3 * 24 + 2 * 12 + 2 * 18 + 8 + 18 * 7 + 24) + 3 * 2 * 2 * 3 * 3


def drawn(mixer: Any) -> dict[str, np.ndarray]:
    return {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(mixer.parameters().items())}


def convolved(weight: np.ndarray, rows: list[np.ndarray], t: int) -> np.ndarray:
    """Channel for channel, with SiLU."""
    width = weight.shape[1]
    y = sum(weight[:, width - 1 - back] * rows[t - back] for back in range(min(t + 1, width)))
    return y / (1 + np.exp(-y))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.sum(x * x) + 1e-6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x) + 0.25) * weight


def step(state: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, decay: Any, beta: float) -> tuple[Any, Any]:
    """One head: its state [K, J] after a token, and what it reads. decay: a number or one a row."""
    state = np.exp(decay)[:, None] * state if np.ndim(decay) else np.exp(decay) * state
    state = state + beta * np.outer(k, v - state.T @ k)
    return state, state.T @ q / np.sqrt(len(q))


def loop_of_gated_delta_net(x: np.ndarray) -> np.ndarray:
    """One row [T, D] of NET, one token and one value head after the other, its rows found by their numbers."""
    w, tokens = drawn(NET), len(x)
    of_a_group = 3 + 3 + 15 + 15
    fused, ba = x @ w["in_proj_qkvz.weight"].T, x @ w["in_proj_ba.weight"].T
    q, k = ([fused[:, g * of_a_group + at + c] for g in range(2) for c in range(3)] for at in (0, 3))
    v, z = ([fused[:, h // 3 * of_a_group + at + h % 3 * 5 + c] for h in range(6) for c in range(5)] for at in (6, 21))
    rows = list(np.array([*q, *k, *v]).T)
    states, result = np.zeros((6, 3, 5)), []
    for t in range(tokens):
        mixed, heads = convolved(w["conv1d.weight"], rows, t), []
        for h in range(6):
            group = h // 3
            q_h, k_h = (unit(mixed[at + 3 * group :][:3]) for at in (0, 6))
            b, a = ba[t, 6 * group + h % 3], ba[t, 6 * group + 3 + h % 3]
            decay = -np.exp(w["a_log"][h]) * np.log1p(np.exp(a + w["dt_bias"][h]))
            states[h], read = step(states[h], q_h, k_h, mixed[12 + 5 * h :][:5], decay, sigmoid(b))
            gate = np.array(z)[5 * h : 5 * h + 5, t]
            heads.append(normed(read, w["norm.weight"]) * gate * sigmoid(gate))
        result.append(w["out_proj.weight"] @ np.concatenate(heads))
    return np.array(result)


def loop_of_kimi(x: np.ndarray) -> np.ndarray:
    """One row [T, D] of KIMI."""
    w = {name.removesuffix(".weight"): array for name, array in drawn(KIMI).items()}
    rows = [np.concatenate([w[f"{name}_proj"] @ token for name in "qkv"]) for token in x]
    states, result = np.zeros((2, 3, 3)), []
    for t, token in enumerate(x):
        mixed, heads = convolved(w["conv1d"], rows, t), []
        a, gate = (w[f"{name}_b_proj"] @ (w[f"{name}_a_proj"] @ token) for name in "fg")
        for h in range(2):
            own = slice(3 * h, 3 * h + 3)
            decay = -np.exp(w["a_log"][h]) * np.log1p(np.exp(a[own] + w["dt_bias"][own]))
            parts = (unit(mixed[:6][own]), unit(mixed[6:12][own]), mixed[12:][own])
            states[h], read = step(states[h], *parts, decay, sigmoid(w["b_proj"][h] @ token))
            heads.append(normed(read, w["norm"]) * sigmoid(gate[own]))
        result.append(w["o_proj"] @ np.concatenate(heads))
    return np.array(result)


@pytest.mark.parametrize(("mixer", "loop"), [(NET, loop_of_gated_delta_net), (KIMI, loop_of_kimi)], ids=["net", "kimi"])
def test_equals_the_loop(mixer: Any, loop: Any) -> None:
    x = normal(2, 11, 4, seed=9)
    order = np.tile(np.arange(11), (2, 1))
    y, _ = mixer(NumpyOps(), drawn(mixer), x, Inputs(q_order=order, k_order=order, rotations={}), None)
    np.testing.assert_allclose(y, [loop(row) for row in x], rtol=1e-11, atol=1e-12)


@EVERY
def test_states_have_the_shapes_that_they_announce(mixer: Any) -> None:
    order = np.array([[-1, 0], [0, 1], [-1, -1]])
    _, state = mixer(NumpyOps(), drawn(mixer), normal(3, 2, 4), Inputs(q_order=order, k_order=order, rotations={}), None)
    assert {name: array.shape for name, array in state.items()} == {
        name: (3, *entry.shape) for name, entry in mixer.state().items()
    }
    assert not any(array[2].any() for array in state.values())
