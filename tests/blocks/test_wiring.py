"""The wiring of blocks, as the calls that they make: which function, of which values, with which options."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from refimpl.blocks import (
    MLP,
    Attention,
    Embedding,
    GatedMLP,
    Head,
    Inputs,
    Layer,
    LayerNorm,
    RMSNorm,
    Rope,
    Scoped,
    StateEntry,
)
from refimpl.ops import NumpyOps, Ops, Traced
from tests.tiny import normal


class Symbols(Ops):
    """An interpreter whose values are the expressions that made them."""

    def __init__(self) -> None:
        self.taps: list[str] = []

    def call(self, name: str, *values: Any, **options: Any) -> str:
        shown = [str(value) for value in values] + [f"{key}={value}" for key, value in options.items()]
        return f"{name}({', '.join(shown)})"

    def tap(self, name: str, value: Any) -> Any:
        self.taps.append(name)
        return name

    @contextmanager
    def scope(self, name: str):
        yield


class Named(dict):
    """Weights whose values are their names."""

    def __missing__(self, key: str) -> str:
        return key


def attention(**changes: Any) -> Attention:
    sizes = {"hidden_size": 10, "heads": 4, "kv_heads": 2, "head_dim": 3, "scale": 0.5, "rope": None}
    return Attention(**{**sizes, **changes})


class Calls(Symbols):
    """Symbols that keep the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def call(self, name: str, *values: Any, **options: Any) -> str:
        self.calls.append(super().call(name, *values, **options))
        return f"#{len(self.calls) - 1}"


INPUTS = Inputs(q_order="QO", k_order="KO", rotations={})


class TestAttention:
    def test_without_options(self) -> None:
        ops = Calls()
        y, state = attention()(ops, Named(), "x", INPUTS, None)
        assert ops.calls == [
            "linear(x, q_proj.weight)",
            "split_heads(#0, heads=4)",
            "linear(x, k_proj.weight)",
            "split_heads(#2, heads=2)",
            "linear(x, v_proj.weight)",
            "split_heads(#4, heads=2)",
            "attention(q_proj, k_proj, v_proj, scale=0.5, q_order=QO, k_order=KO)",
            "merge_heads(attention)",
            "linear(#7, o_proj.weight)",
        ]
        assert (y, state) == ("o_proj", {"key": "k_proj", "value": "v_proj"})

    def test_heads_are_normed_then_rotated_then_appended_to_the_cache(self) -> None:
        ops, rope = Calls(), Rope(rotary_dim=2, theta=10.0, interleaved=True)
        mixer = attention(rope=rope, qk_norm=RMSNorm(size=3, eps=0.25), window=7)
        inputs = Inputs(q_order="QO", k_order="KO", rotations={rope: ("C", "S")})
        _, state = mixer(ops, Named(), "x", inputs, {"key": "K", "value": "V"})
        assert ops.calls[6:13] == [
            "rms_norm(q_proj, q_norm.weight, eps=0.25)",
            "rms_norm(k_proj, k_norm.weight, eps=0.25)",
            "rotary_embedding(q_norm, C, S, interleaved=True)",
            "rotary_embedding(k_norm, C, S, interleaved=True)",
            "append(K, k_rope)",
            "append(V, v_proj)",
            "attention(q_rope, #10, #11, scale=0.5, q_order=QO, k_order=KO, window=7)",
        ]
        assert state == {"key": "#10", "value": "#11"}
        assert ops.taps == ["q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "q_rope", "k_rope", "attention", "o_proj"]

    @pytest.mark.parametrize(("options", "expected"), [
        ({}, []),
        ({"qkv_bias": True}, ["q_proj", "k_proj", "v_proj"]),
        ({"output_bias": True}, ["o_proj"]),
    ])  # fmt: skip
    def test_biases_are_where_they_are_declared(self, options: dict, expected: list[str]) -> None:
        ops = Calls()
        attention(**options)(ops, Named(), "x", INPUTS, None)
        used = [name for name in ("q_proj", "k_proj", "v_proj", "o_proj") if any(f"{name}.bias" in call for call in ops.calls)]
        declared = [name.removesuffix(".bias") for name in attention(**options).parameters() if name.endswith("bias")]
        assert used == declared == expected

    def test_state_grows_by_key_and_value_heads(self) -> None:
        assert attention(window=5).state() == dict.fromkeys(("key", "value"), StateEntry(shape=(2, 3), window=5))

    def test_a_cached_step_equals_the_last_row_of_the_whole(self) -> None:
        mixer = attention()
        weights = {name: normal(*shape, seed=len(name)) for name, shape in mixer.parameters().items()}
        x, order = normal(1, 5, 10), np.arange(5)[None]
        whole, _ = mixer(NumpyOps(), weights, x, Inputs(q_order=order, k_order=order, rotations={}), None)
        first = Inputs(q_order=order[:, :4], k_order=order[:, :4], rotations={})
        _, state = mixer(NumpyOps(), weights, x[:, :4], first, None)
        last, _ = mixer(NumpyOps(), weights, x[:, 4:], Inputs(q_order=order[:, 4:], k_order=order, rotations={}), state)
        np.testing.assert_allclose(last, whole[:, 4:], rtol=1e-13)


class TestLayer:
    NORM = RMSNorm(size=10, eps=0.5)

    def layer(self, **norms: Any) -> Layer:
        return Layer(mixer=attention(), mlp=GatedMLP(hidden_size=10, intermediate_size=7), **norms)

    def residual_calls(self, layer: Layer) -> tuple[list[str], list[str]]:
        ops = Calls()
        layer(ops, Named(), "x", INPUTS, None)
        return [call for call in ops.calls if call.startswith(("rms_norm", "add", "linear(x", "linear(m"))], ops.taps

    def test_pre_norm(self) -> None:
        calls, taps = self.residual_calls(self.layer(mixer_norm=self.NORM, mlp_norm=self.NORM))
        assert calls == [
            "rms_norm(x, mixer_norm.weight, eps=0.5)",
            "linear(mixer_norm, mixer.q_proj.weight)",
            "linear(mixer_norm, mixer.k_proj.weight)",
            "linear(mixer_norm, mixer.v_proj.weight)",
            "add(x, o_proj)",
            "rms_norm(mixer_residual, mlp_norm.weight, eps=0.5)",
            "linear(mlp_norm, mlp.gate_proj.weight)",
            "linear(mlp_norm, mlp.up_proj.weight)",
            "add(mixer_residual, down_proj)",
        ]
        assert taps[0] == "mixer_norm"
        assert taps[-1] == "output"

    def test_post_norms_act_on_the_branch_and_not_on_the_sum(self) -> None:
        calls, _ = self.residual_calls(self.layer(mixer_post_norm=self.NORM, mlp_post_norm=self.NORM))
        assert calls[0] == "linear(x, mixer.q_proj.weight)"
        assert calls[3:5] == ["rms_norm(o_proj, mixer_post_norm.weight, eps=0.5)", "add(x, mixer_post_norm)"]
        assert calls[-2:] == ["rms_norm(down_proj, mlp_post_norm.weight, eps=0.5)", "add(mixer_residual, mlp_post_norm)"]

    def test_parameters_are_those_of_its_parts(self) -> None:
        names = list(self.layer(mixer_norm=self.NORM, mlp_post_norm=self.NORM).parameters())
        assert names[0] == "mixer_norm.weight"
        assert names[-1] == "mlp_post_norm.weight"
        assert "mlp_norm.weight" not in names

    def test_taps_of_the_parts_are_scoped(self) -> None:
        layer, order = self.layer(mixer_norm=self.NORM), np.arange(2)[None]
        weights = {name: normal(*shape) for name, shape in layer.parameters().items()}
        ops = Traced(NumpyOps())
        layer(ops, weights, normal(1, 2, 10), Inputs(q_order=order, k_order=order, rotations={}), None)
        assert list(ops.values) == [
            "mixer_norm",
            *(f"mixer.{name}" for name in ("q_proj", "k_proj", "v_proj", "attention", "o_proj")),
            "mixer_residual",
            *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "activation", "down_proj")),
            "output",
        ]


class TestGatedMLP:
    @pytest.mark.parametrize(
        ("activation", "expected"),
        [
            ("silu", "swiglu(gate_proj, up_proj)"),
            ("gelu", "geglu(gate_proj, up_proj)"),
            ("gelu_tanh", "geglu(gate_proj, up_proj, approximate=tanh)"),
        ],
    )
    @pytest.mark.parametrize("bias", [False, True])
    def test_down_of_the_gated_product(self, activation, expected: str, bias: bool) -> None:
        ops, suffix = Calls(), [f", {name}_proj.bias" if bias else "" for name in ("gate", "up", "down")]
        mlp = GatedMLP(hidden_size=4, intermediate_size=6, activation=activation, bias=bias)
        assert mlp(ops, Named(), "x") == "down_proj"
        assert ops.calls == [
            f"linear(x, gate_proj.weight{suffix[0]})",
            f"linear(x, up_proj.weight{suffix[1]})",
            expected,
            f"linear(activation, down_proj.weight{suffix[2]})",
        ]

    def test_parameters(self) -> None:
        shapes = GatedMLP(hidden_size=4, intermediate_size=6, bias=True).parameters()
        assert shapes == {
            "gate_proj.weight": (6, 4), "gate_proj.bias": (6,),
            "up_proj.weight": (6, 4), "up_proj.bias": (6,),
            "down_proj.weight": (4, 6), "down_proj.bias": (4,),
        }  # fmt: skip


class TestMLP:
    @pytest.mark.parametrize(
        ("activation", "expected"),
        [("silu", "silu(up_proj)"), ("gelu", "gelu(up_proj)"), ("gelu_tanh", "gelu(up_proj, approximate=tanh)")],
    )
    def test_down_of_the_activation(self, activation, expected: str) -> None:
        ops = Calls()
        MLP(hidden_size=4, intermediate_size=6, activation=activation)(ops, Named(), "x")
        assert ops.calls == [
            "linear(x, up_proj.weight, up_proj.bias)", expected, "linear(activation, down_proj.weight, down_proj.bias)",
        ]  # fmt: skip

    def test_parameters(self) -> None:
        shapes = MLP(hidden_size=4, intermediate_size=6, bias=False).parameters()
        assert shapes == {"up_proj.weight": (6, 4), "down_proj.weight": (4, 6)}


class TestEnds:
    def test_embedding(self) -> None:
        assert Embedding(vocab_size=9, hidden_size=4)(Symbols(), Named(), "t") == "embedding(t, weight)"
        assert Embedding(vocab_size=9, hidden_size=4, scale=2.0)(Symbols(), Named(), "t") == "embedding(t, weight, scale=2.0)"

    def test_head(self) -> None:
        assert Head(vocab_size=9, hidden_size=4, tied=True)(Symbols(), "W", "x") == "lm_head(x, W)"
        scaled = Head(vocab_size=9, hidden_size=4, tied=False, scale=0.5, softcap=30.0)
        assert scaled(Symbols(), "W", "x") == "lm_head(x, W, scale=0.5, softcap=30.0)"

    def test_norms(self) -> None:
        assert RMSNorm(size=4, eps=0.5)(Symbols(), Named(), "x") == "rms_norm(x, weight, eps=0.5)"
        centred = RMSNorm(size=4, eps=0.5, zero_centred=True)
        assert centred(Symbols(), Named(), "x") == "rms_norm(x, weight, eps=0.5, zero_centred=True)"
        assert LayerNorm(size=4, eps=0.5)(Symbols(), Named(), "x") == "layer_norm(x, weight, bias, eps=0.5)"
        assert LayerNorm(size=4, eps=0.5).parameters() == {"weight": (4,), "bias": (4,)}


class TestScoped:
    def test_sees_the_weights_under_its_prefix(self) -> None:
        scoped = Scoped({"a.x": 1, "a.b.y": 2, "ab.z": 3}, "a")
        assert scoped["x"] == 1
        assert dict(scoped) == {"x": 1, "b.y": 2}
        assert Scoped(scoped, "b")["y"] == 2
        assert "z" not in scoped


class TestStateEntry:
    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            (StateEntry(shape=(2, 3)), 60),
            (StateEntry(shape=(2, 3), window=4), 24),
            (StateEntry(shape=(2, 3), window=40), 60),
            (StateEntry(shape=(2, 3), grows=False), 6),
            (StateEntry(shape=()), 10),
        ],
    )
    def test_elements_of_ten_tokens(self, entry: StateEntry, expected: int) -> None:
        assert entry.elements(10) == expected

    @pytest.mark.parametrize(("cache", "width"), [("bfloat16", 2), ("float16", 2), ("float32", 4), ("float64", 8)])
    def test_bytes_are_of_the_cache_format_or_of_a_wider_one(self, cache: str, width: int) -> None:
        assert StateEntry(shape=(2, 3)).nbytes(10, cache) == 60 * width
        assert StateEntry(shape=(2, 3), grows=False, dtype="float32").nbytes(10, cache) == 6 * max(width, 4)
