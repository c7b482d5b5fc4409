"""Kimi Delta Attention as a token mixer: projections of their own, convolution, gated delta rule with a decay a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Inputs, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.delta_rule import DeltaRule
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class KimiDeltaAttention(TokenMixer):
    """Kimi Delta Attention.

    q, k, v = W_q x, W_k x, W_v x;  b = W_b x;  a = W_fb W_fa x;  gate = W_gb W_ga x
    y = W_o gated_rms_norm(delta rule(q, k, v, a, b), gate), the gate through a sigmoid

    a is of each channel of the key; W_fa and W_ga are as narrow as one head.
    """

    hidden_size: int
    heads: int
    head_dim: int
    conv_width: int
    norm_eps: float

    @property
    def rule(self) -> DeltaRule:
        return DeltaRule(
            key_heads=self.heads,
            value_heads=self.heads,
            key_head_dim=self.head_dim,
            value_head_dim=self.head_dim,
            conv_width=self.conv_width,
            decay_per_channel=True,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        width = self.heads * self.head_dim
        down, up = (self.head_dim, self.hidden_size), (width, self.head_dim)
        return {
            **{f"{name}_proj.weight": (width, self.hidden_size) for name in "qkv"},
            "f_a_proj.weight": down,
            "f_b_proj.weight": up,
            "b_proj.weight": (self.heads, self.hidden_size),
            "g_a_proj.weight": down,
            "g_b_proj.weight": up,
            **self.rule.parameters(),
            "norm.weight": (self.head_dim,),
            "o_proj.weight": (self.hidden_size, width),
        }

    def state(self) -> dict[str, StateEntry]:
        return self.rule.state()

    def flops(self, context: int) -> int:
        return super().flops(context) + self.rule.flops()

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        qkv = ops.concat(*(ops.linear(x, weights[f"{name}_proj.weight"]) for name in "qkv"))
        b = ops.linear(x, weights["b_proj.weight"])
        y, new_state = self.rule(ops, weights, qkv, self._low_rank(ops, weights, x, "f"), b, inputs, state)
        gate = self._low_rank(ops, weights, x, "g")
        options = {"eps": self.norm_eps, "activation": "sigmoid"}
        y = ops.tap("norm", ops.gated_rms_norm(y, gate, weights["norm.weight"], **options))
        return ops.tap("out_proj", ops.linear(ops.merge_heads(y), weights["o_proj.weight"])), new_state

    def _low_rank(self, ops: Ops, weights: Weights, x: Any, name: str) -> Any:
        """W_b W_a x [B, T, H, K]."""
        low = ops.linear(x, weights[f"{name}_a_proj.weight"])
        return ops.split_heads(ops.linear(low, weights[f"{name}_b_proj.weight"]), heads=self.heads)
