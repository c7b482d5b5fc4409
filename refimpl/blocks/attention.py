"""Softmax attention with grouped heads as a token mixer: projections, QK-norm, rotation, cache, output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Inputs, Scoped, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.norm import RMSNorm
from refimpl.blocks.rope import Rope
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Attention(TokenMixer):
    """Grouped-query attention.

    q, k, v = x W_q, x W_k, x W_v, split into heads; q and k normed a head (`qk_norm`), then rotated (`rope`);
    y = attention(q, k, v) W_o. `rope` None is NoPE; `window` None is full attention.
    """

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    qk_norm: RMSNorm | None = None
    qkv_bias: bool = False
    output_bias: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {}
        for name, width in (("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)):
            found[f"{name}.weight"] = (width, self.hidden_size)
            if self.qkv_bias:
                found[f"{name}.bias"] = (width,)
        found["o_proj.weight"] = (self.hidden_size, q_width)
        if self.output_bias:
            found["o_proj.bias"] = (self.hidden_size,)
        for name in ("q_norm", "k_norm") if self.qk_norm else ():
            found[f"{name}.weight"] = (self.head_dim,)
        return found

    def state(self) -> dict[str, StateEntry]:
        entry = StateEntry(shape=(self.kv_heads, self.head_dim), window=self.window)
        return {"key": entry, "value": entry}

    def flops(self, context: int) -> int:
        seen = min(context, self.window) if self.window else context
        return super().flops(context) + 2 * 2 * seen * self.heads * self.head_dim

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        q = self._project(ops, weights, x, "q_proj", self.heads)
        k = self._project(ops, weights, x, "k_proj", self.kv_heads)
        v = self._project(ops, weights, x, "v_proj", self.kv_heads)
        if self.qk_norm is not None:
            q = ops.tap("q_norm", self.qk_norm(ops, Scoped(weights, "q_norm"), q))
            k = ops.tap("k_norm", self.qk_norm(ops, Scoped(weights, "k_norm"), k))
        if self.rope is not None:
            cos, sin = inputs.rotations[self.rope]
            layout = {"interleaved": True} if self.rope.interleaved else {}
            q = ops.tap("q_rope", ops.rotary_embedding(q, cos, sin, **layout))
            k = ops.tap("k_rope", ops.rotary_embedding(k, cos, sin, **layout))
        if state is not None:
            k, v = ops.append(state["key"], k), ops.append(state["value"], v)
        visibility = {} if self.window is None else {"window": self.window}
        mixed = ops.attention(q, k, v, scale=self.scale, q_order=inputs.q_order, k_order=inputs.k_order, **visibility)
        mixed = ops.tap("attention", mixed)
        y = ops.linear(ops.merge_heads(mixed), weights["o_proj.weight"], *self._bias(weights, "o_proj", self.output_bias))
        return ops.tap("o_proj", y), {"key": k, "value": v}

    def _project(self, ops: Ops, weights: Weights, x: Any, name: str, heads: int) -> Any:
        y = ops.linear(x, weights[f"{name}.weight"], *self._bias(weights, name, self.qkv_bias))
        return ops.tap(name, ops.split_heads(y, heads=heads))

    @staticmethod
    def _bias(weights: Weights, name: str, present: bool) -> tuple[Any, ...]:
        return (weights[f"{name}.bias"],) if present else ()
