"""Mixtures of experts as parts of a model: the calls that they make, their parameters, and what counts as active."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from refimpl.blocks import (
    Experts,
    GatedMLP,
    MoE,
    Router,
    SigmoidTopK,
    SoftcappedSoftmax,
    SoftmaxTopK,
    TopKSigmoid,
    TopKSoftmax,
)
from refimpl.ops import NumpyOps, Traced
from tests.blocks.test_wiring import Calls, Named
from tests.tiny import normal

SIZES = {"hidden_size": 10, "experts": 6, "top_k": 2}
SIGMOID = SigmoidTopK(**SIZES, renormalise=True)


class Pairs(Calls):
    """Calls, of which those of routers give pairs."""

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        number = super().call(name, *values, **options)
        return (f"{number}.indices", f"{number}.weights") if name.endswith("router") else number


def experts(**changes: Any) -> Experts:
    return Experts(**{"hidden_size": 10, "intermediate_size": 7, "experts": 6, **changes})


def shared_mlp(**changes: Any) -> GatedMLP:
    return GatedMLP(**{"hidden_size": 10, "intermediate_size": 4, **changes})


def drawn(block: Any) -> dict[str, np.ndarray]:
    return {name: normal(*shape, seed=i) / 3 for i, (name, shape) in enumerate(block.parameters().items())}


class TestRouters:
    @pytest.mark.parametrize(
        ("router", "expected"),
        [
            (TopKSoftmax(**SIZES), "top_k_softmax_router(logits, top_k=2)"),
            (SoftmaxTopK(**SIZES, renormalise=False), "softmax_top_k_router(logits, top_k=2, renormalise=False)"),
            (SoftmaxTopK(**SIZES, renormalise=True), "softmax_top_k_router(logits, top_k=2, renormalise=True)"),
            (SoftcappedSoftmax(**SIZES, softcap=30.0), "softcapped_softmax_router(logits, top_k=2, softcap=30.0)"),
            (TopKSigmoid(**SIZES), "top_k_sigmoid_router(logits, top_k=2)"),
            (
                SIGMOID,
                "sigmoid_router(logits, correction_bias, top_k=2, renormalise=True, eps=1e-20, scaling_factor=1.0)",
            ),
            (
                SigmoidTopK(**SIZES, renormalise=False, scaling_factor=2.5, eps=0.5, groups=3, top_groups=2),
                "sigmoid_router(logits, correction_bias, top_k=2, renormalise=False, eps=0.5, scaling_factor=2.5, "
                "groups=3, top_groups=2)",
            ),
        ],
    )
    def test_each_is_a_linear_map_and_its_function(self, router: Router, expected: str) -> None:
        ops = Pairs()
        assert router(ops, Named(), "x") == ("indices", "weights")
        assert ops.calls == ["linear(x, weight)", expected]
        assert ops.taps == ["logits", "indices", "weights"]

    @pytest.mark.parametrize("router", [TopKSoftmax, TopKSigmoid])
    def test_a_bias_is_added_where_it_is_declared(self, router: type[Router]) -> None:
        ops = Pairs()
        router(**SIZES, bias=True)(ops, Named(), "x")
        assert ops.calls[0] == "linear(x, weight, bias)"
        assert router(**SIZES, bias=True).parameters() == {"weight": (6, 10), "bias": (6,)}
        assert router(**SIZES).parameters() == {"weight": (6, 10)}

    def test_a_correction_bias_is_a_buffer_and_counts_nowhere(self) -> None:
        assert SIGMOID.parameters() == {"weight": (6, 10), "correction_bias": (6,)}
        assert SIGMOID.buffers() == {"correction_bias"}
        assert SIGMOID.num_parameters() == 60
        assert SigmoidTopK(**SIZES, renormalise=True, bias=True).num_parameters() == 66

    def test_flops_are_those_of_the_linear_map(self) -> None:
        assert SIGMOID.flops(1000) == TopKSoftmax(**SIZES, bias=True).flops(0) == 2 * 60

    def test_groups_decide(self) -> None:
        # Two experts of one group, and one of each of the others that is better than the second.
        weights = {"weight": np.eye(6), "correction_bias": np.zeros(6)}
        x = np.array([[[3.0, 2.0, 2.5, -4, 2.5, -4]]])
        sizes = {**SIZES, "hidden_size": 6, "renormalise": True}
        assert SigmoidTopK(**sizes)(NumpyOps(), weights, x)[0].tolist() == [[[0, 2]]]
        assert SigmoidTopK(**sizes, groups=3, top_groups=1)(NumpyOps(), weights, x)[0].tolist() == [[[0, 1]]]


class TestExperts:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, "activation=silu"),
            ({"activation": "gelu_tanh"}, "activation=gelu_tanh"),
            ({"activation": "clamped_swiglu", "alpha": 1.5, "limit": 7.0}, "activation=clamped_swiglu, alpha=1.5, limit=7.0"),
            ({"scale_input": True}, "activation=silu, scale_input=True"),
        ],
    )
    def test_one_call(self, options: dict, expected: str) -> None:
        ops = Calls()
        experts(**options)(ops, Named(), "x", "i", "w")
        assert ops.calls == [f"routed_experts(x, i, w, gate_proj.weight, up_proj.weight, down_proj.weight, {expected})"]

    def test_biases_come_after_the_matrices_in_the_same_order(self) -> None:
        ops = Calls()
        experts(bias=True)(ops, Named(), "x", "i", "w")
        matrices = "gate_proj.weight, up_proj.weight, down_proj.weight, gate_proj.bias, up_proj.bias, down_proj.bias"
        assert ops.calls == [f"routed_experts(x, i, w, {matrices}, activation=silu)"]

    def test_parameters(self) -> None:
        assert experts(bias=True).parameters() == {
            "gate_proj.weight": (6, 7, 10), "gate_proj.bias": (6, 7),
            "up_proj.weight": (6, 7, 10), "up_proj.bias": (6, 7),
            "down_proj.weight": (6, 10, 7), "down_proj.bias": (6, 10),
        }  # fmt: skip
        assert experts().num_parameters() == 3 * 6 * 70
        assert experts(bias=True).num_parameters() == 3 * 6 * 70 + 6 * (7 + 7 + 10)


class TestMoE:
    def test_experts_alone(self) -> None:
        ops = Pairs()
        assert MoE(router=TopKSoftmax(**SIZES), experts=experts())(ops, Named(), "x") == "output"
        matrices = ", ".join(f"experts.{name}_proj.weight" for name in ("gate", "up", "down"))
        assert ops.calls == [
            "linear(x, router.weight)",
            "top_k_softmax_router(logits, top_k=2)",
            f"routed_experts(x, indices, weights, {matrices}, activation=silu)",
        ]
        assert ops.taps == ["logits", "indices", "weights", "experts", "output"]

    def test_a_shared_mlp_is_gated_from_the_input_added_and_then_all_is_scaled(self) -> None:
        ops = Pairs()
        moe = MoE(router=SIGMOID, experts=experts(), shared=shared_mlp(bias=True), shared_gate=True, factor=0.5)
        assert moe(ops, Named(), "x") == "output"
        assert ops.calls[3:] == [
            "linear(x, shared.gate_proj.weight, shared.gate_proj.bias)",
            "linear(x, shared.up_proj.weight, shared.up_proj.bias)",
            "swiglu(gate_proj, up_proj)",
            "linear(activation, shared.down_proj.weight, shared.down_proj.bias)",
            "linear(x, shared_gate.weight)",
            "sigmoid_gate(down_proj, #7)",
            "add(experts, shared)",
            "scale(#9, factor=0.5)",
        ]
        assert ops.taps[-2:] == ["shared", "output"]

    @pytest.mark.parametrize("shared_gate", [False, True])
    @pytest.mark.parametrize("factor", [None, 0.7])
    def test_equals_a_loop_over_tokens(self, shared_gate: bool, factor: float | None) -> None:
        moe = MoE(router=TopKSigmoid(**SIZES), experts=experts(), shared=shared_mlp(), shared_gate=shared_gate, factor=factor)
        weights, x = drawn(moe), normal(2, 3, 10)

        def gated(prefix: str, row: np.ndarray, expert: Any = ...) -> np.ndarray:
            gate, up, down = (weights[f"{prefix}.{name}_proj.weight"][expert] for name in ("gate", "up", "down"))
            return down @ [g / (1 + math.exp(-g)) * u for g, u in zip(gate @ row, up @ row, strict=True)]

        found = moe(NumpyOps(), weights, x)
        for token in np.ndindex(2, 3):
            row = x[token]
            logits = weights["router.weight"] @ row
            chosen = sorted(range(6), key=lambda e: -logits[e])[:2]
            expected = sum(gated("experts", row, e) / (1 + math.exp(-logits[e])) for e in chosen)
            openness = 1 / (1 + math.exp(-(weights["shared_gate.weight"] @ row).item())) if shared_gate else 1
            expected = (expected + openness * gated("shared", row)) * (1 if factor is None else factor)
            np.testing.assert_allclose(found[token], expected, rtol=1e-12, atol=1e-14)

    def test_parameters_and_buffers_are_those_of_its_parts(self) -> None:
        moe = MoE(router=SIGMOID, experts=experts(), shared=shared_mlp(), shared_gate=True)
        assert moe.parameters() == {
            "router.weight": (6, 10), "router.correction_bias": (6,),
            "experts.gate_proj.weight": (6, 7, 10), "experts.up_proj.weight": (6, 7, 10),
            "experts.down_proj.weight": (6, 10, 7),
            "shared.gate_proj.weight": (4, 10), "shared.up_proj.weight": (4, 10), "shared.down_proj.weight": (10, 4),
            "shared_gate.weight": (1, 10),
        }  # fmt: skip
        assert moe.buffers() == {"router.correction_bias"}

    def test_counts_all_parameters_and_the_active_ones(self) -> None:
        moe = MoE(router=SIGMOID, experts=experts(bias=True), shared=shared_mlp(), shared_gate=True)
        one = 3 * 70 + 24
        assert moe.num_parameters() == 60 + 6 * one + 3 * 40 + 10
        assert moe.num_active_parameters() == 60 + 2 * one + 3 * 40 + 10

    def test_flops_are_two_a_multiply_add_of_what_a_token_uses(self) -> None:
        moe = MoE(router=SIGMOID, experts=experts(bias=True), shared=shared_mlp(bias=True), shared_gate=True)
        assert moe.flops(123) == 2 * (60 + 2 * 3 * 70 + 3 * 40 + 10)
        assert MoE(router=SIGMOID, experts=experts()).flops(0) == 2 * (60 + 2 * 3 * 70)

    def test_taps_of_the_parts_are_scoped(self) -> None:
        moe = MoE(router=SIGMOID, experts=experts(), shared=shared_mlp())
        ops = Traced(NumpyOps())
        y = moe(ops, drawn(moe), normal(1, 4, 10))
        assert list(ops.values) == [
            *(f"router.{name}" for name in ("logits", "indices", "weights")),
            "experts",
            *(f"shared.{name}" for name in ("gate_proj", "up_proj", "activation", "down_proj")),
            "shared",
            "output",
        ]
        assert ops.values["output"] is y
        assert ops.values["router.indices"].shape == (1, 4, 2)
