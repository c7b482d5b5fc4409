"""Gated DeltaNet as a token mixer: fused projections, convolution, gated delta rule with a decay a head, gated norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Inputs, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.delta_rule import DeltaRule
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet(TokenMixer):
    """Gated DeltaNet.

    q, k, v, z = W_qkvz x;  b, a = W_ba x;  y = W_o gated_rms_norm(delta rule(q, k, v, a, b), z), the gate through SiLU

    The rows of W_qkvz and W_ba are grouped by key heads: q (K rows), k (K), v and z of its H/G value heads (H/G · J each);
    b and a of the same (H/G each).
    """

    hidden_size: int
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_width: int
    norm_eps: float

    @property
    def rule(self) -> DeltaRule:
        return DeltaRule(
            key_heads=self.key_heads,
            value_heads=self.value_heads,
            key_head_dim=self.key_head_dim,
            value_head_dim=self.value_head_dim,
            conv_width=self.conv_width,
            decay_per_channel=False,
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        q_width, k_width, v_width = self.rule.widths
        return {
            "in_proj_qkvz.weight": (q_width + k_width + 2 * v_width, self.hidden_size),
            "in_proj_ba.weight": (2 * self.value_heads, self.hidden_size),
            **self.rule.parameters(),
            "norm.weight": (self.value_head_dim,),
            "out_proj.weight": (self.hidden_size, v_width),
        }

    def state(self) -> dict[str, StateEntry]:
        return self.rule.state()

    def flops(self, context: int) -> int:
        return super().flops(context) + self.rule.flops()

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        values = self.value_heads // self.key_heads * self.value_head_dim
        sizes = (self.key_head_dim, self.key_head_dim, values, values)
        q, k, v, z = self._ungrouped(ops, ops.linear(x, weights["in_proj_qkvz.weight"]), sizes)
        heads = self.value_heads // self.key_heads
        b, a = self._ungrouped(ops, ops.linear(x, weights["in_proj_ba.weight"]), (heads, heads))
        y, new_state = self.rule(ops, weights, ops.concat(q, k, v), a, b, inputs, state)
        gate = ops.split_heads(z, heads=self.value_heads)
        y = ops.tap("norm", ops.gated_rms_norm(y, gate, weights["norm.weight"], eps=self.norm_eps))
        return ops.tap("out_proj", ops.linear(ops.merge_heads(y), weights["out_proj.weight"])), new_state

    def _ungrouped(self, ops: Ops, x: Any, sizes: tuple[int, ...]) -> list[Any]:
        """What stands side by side for each key head, all heads of one kind together."""
        return [ops.merge_heads(each) for each in ops.split(ops.split_heads(x, heads=self.key_heads), sizes=sizes)]
