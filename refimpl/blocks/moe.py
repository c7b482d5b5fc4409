"""Mixture of experts as a channel mixer: router, routed experts, and what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from refimpl.blocks.base import Block, ChannelMixer, Scoped, Weights
from refimpl.blocks.mlp import GatedMLP
from refimpl.blocks.router import Router
from refimpl.ops import Ops

MATRICES = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Experts(Block):
    """`routed_experts`: gate_proj and up_proj [E, F, D], down_proj [E, D, F], with biases where `bias`."""

    hidden_size: int
    intermediate_size: int
    experts: int
    activation: Literal["silu", "gelu", "gelu_tanh", "clamped_swiglu"] = "silu"
    alpha: float | None = None
    limit: float | None = None
    bias: bool = False
    scale_input: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        wide = (self.experts, self.intermediate_size, self.hidden_size)
        shapes = dict(zip(MATRICES, (wide, wide, (self.experts, self.hidden_size, self.intermediate_size)), strict=True))
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes.items():
            found[f"{name}.weight"] = shape
            if self.bias:
                found[f"{name}.bias"] = shape[:2]
        return found

    def flops(self, context: int) -> int:
        """Of one expert."""
        return 2 * len(MATRICES) * self.hidden_size * self.intermediate_size

    def __call__(self, ops: Ops, weights: Weights, x: Any, indices: Any, shares: Any) -> Any:
        matrices = [weights[f"{name}.weight"] for name in MATRICES]
        biases = [weights[f"{name}.bias"] for name in MATRICES] if self.bias else []
        switches: dict[str, Any] = {"alpha": self.alpha, "limit": self.limit}
        options = {name: value for name, value in switches.items() if value is not None}
        if self.scale_input:
            options["scale_input"] = True
        return ops.routed_experts(x, indices, shares, *matrices, *biases, activation=self.activation, **options)


@dataclass(frozen=True, kw_only=True)
class MoE(ChannelMixer):
    """y = factor · (routed experts(x) + shared(x)).

    shared: a gated MLP that every token uses; with `shared_gate` its output goes through σ of one logit a token.
    """

    router: Router
    experts: Experts
    shared: GatedMLP | None = None
    shared_gate: bool = False
    factor: float | None = None

    def parts(self) -> dict[str, Block]:
        """The blocks inside, by the prefix of their parameters."""
        shared = {} if self.shared is None else {"shared": self.shared}
        return {"router": self.router, "experts": self.experts, **shared}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        found = {f"{part}.{name}": shape for part, block in self.parts().items() for name, shape in block.parameters().items()}
        return {**found, "shared_gate.weight": (1, self.router.hidden_size)} if self.shared_gate else found

    def buffers(self) -> frozenset[str]:
        return frozenset(f"{part}.{name}" for part, block in self.parts().items() for name in block.buffers())

    def num_active_parameters(self) -> int:
        routed = self.experts.num_parameters()
        return self.num_parameters() - routed + routed * self.router.top_k // self.router.experts

    def flops(self, context: int) -> int:
        beside = sum(block.flops(context) for name, block in self.parts().items() if name != "experts")
        gate = 2 * self.router.hidden_size if self.shared_gate else 0
        return beside + gate + self.router.top_k * self.experts.flops(context)

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        with ops.scope("router"):
            indices, shares = self.router(ops, Scoped(weights, "router"), x)
        y = ops.tap("experts", self.experts(ops, Scoped(weights, "experts"), x, indices, shares))
        if self.shared is not None:
            y = ops.add(y, self._shared(ops, weights, x))
        if self.factor is not None:
            y = ops.scale(y, factor=self.factor)
        return ops.tap("output", y)

    def _shared(self, ops: Ops, weights: Weights, x: Any) -> Any:
        assert self.shared is not None
        with ops.scope("shared"):
            y = self.shared(ops, Scoped(weights, "shared"), x)
        if self.shared_gate:
            y = ops.sigmoid_gate(y, ops.linear(x, weights["shared_gate.weight"]))
        return ops.tap("shared", y)
