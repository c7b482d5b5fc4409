"""Softmax attention with grouped heads as a token mixer: projections, QK-norm, rotation, cache, output projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from refimpl.blocks.base import Inputs, Scoped, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.norm import RMSNorm
from refimpl.blocks.rope import Rope
from refimpl.blocks.temperature import Temperature
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Attention(TokenMixer):
    """Grouped-query attention.

    q, k, v = x W_q, x W_k, x W_v, split into heads; q and k normed (`qk_norm`) and rotated (`rope`);
    y = attention(q, k, v) W_o. `rope` None is NoPE; `window` and `chunk` None are full attention.

    qk_norm_over: whether q and k are normed head by head, the whole projection at once before it is split, or head by head
    after the rotation. The size of `qk_norm` follows from it.
    output_gate: whether each head's rows of W_q are followed by as many for a gate: y = (attention(q, k, v) · σ(gate)) W_o.
    """

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    chunk: int | None = None
    qk_norm: RMSNorm | None = None
    qk_norm_over: Literal["head", "projection", "rotated_head"] = "head"
    qkv_bias: bool = False
    output_bias: bool = False
    sinks: bool = False
    softcap: float | None = None
    temperature: Temperature | None = None
    output_gate: bool = False

    @property
    def span(self) -> int | None:
        """How many tokens back, its own included, a query may see; None for all."""
        return min((limit for limit in (self.window, self.chunk) if limit is not None), default=None)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {}
        q_rows = 2 * q_width if self.output_gate else q_width
        for name, width in (("q_proj", q_rows), ("k_proj", kv_width), ("v_proj", kv_width)):
            found[f"{name}.weight"] = (width, self.hidden_size)
            if self.qkv_bias:
                found[f"{name}.bias"] = (width,)
        found["o_proj.weight"] = (self.hidden_size, q_width)
        if self.output_bias:
            found["o_proj.bias"] = (self.hidden_size,)
        for name, norm in self._norms().items():
            found |= {f"{name}.{inner}": shape for inner, shape in norm.parameters().items()}
        if self.sinks:
            found["sinks"] = (self.heads,)
        return found

    def ropes(self) -> tuple[Rope, ...]:
        """The rotations that it uses."""
        return () if self.rope is None else (self.rope,)

    def state(self) -> dict[str, StateEntry]:
        entry = StateEntry(shape=(self.kv_heads, self.head_dim), window=self.span)
        return {"key": entry, "value": entry}

    def flops(self, context: int) -> int:
        seen = min(context, self.span) if self.span else context
        return super().flops(context) + 2 * 2 * seen * self.heads * self.head_dim

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        q, gate = self._query(ops, weights, x)
        k = self._project(ops, weights, x, "k", self.kv_heads)
        v = self._project(ops, weights, x, "v", self.kv_heads)
        if self.qk_norm_over == "head":
            q, k = self._norm(ops, weights, "q_norm", q), self._norm(ops, weights, "k_norm", k)
        if self.rope is not None:
            cos, sin = inputs.rotations[self.rope]
            layout = {"interleaved": True} if self.rope.interleaved else {}
            q = ops.tap("q_rope", ops.rotary_embedding(q, cos, sin, **layout))
            k = ops.tap("k_rope", ops.rotary_embedding(k, cos, sin, **layout))
        if self.qk_norm_over == "rotated_head":
            q, k = self._norm(ops, weights, "q_norm", q), self._norm(ops, weights, "k_norm", k)
        keys, values, k_order, new_state = self._remember(ops, inputs, state, k, v)
        mixed = ops.attention(
            q,
            keys,
            values,
            scale=self.scale,
            q_order=inputs.q_order,
            k_order=k_order,
            **self._switches(weights, inputs),
        )
        mixed = ops.tap("attention", mixed)
        if gate is not None:
            mixed = ops.tap("gated_attention", ops.sigmoid_gate(mixed, gate))
        y = ops.linear(ops.merge_heads(mixed), weights["o_proj.weight"], *self._bias(weights, "o_proj", self.output_bias))
        return ops.tap("o_proj", y), new_state

    def _remember(self, ops: Ops, inputs: Inputs, state: State | None, k: Any, v: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
        """The keys and values to attend to, their places, and what is kept of them."""
        past = state or {}
        keys = k if state is None else ops.append(state["key"], k)
        values = v if state is None else ops.append(state["value"], v)
        if self.span is None or not inputs.ring:
            return keys, values, inputs.k_order, {"key": keys, "value": values}
        kept = {
            name: ops.ring_append(new, inputs.k_order, *((past[name],) if past else ()), window=self.span)
            for name, new in (("key", k), ("value", v))
        }
        if state is None:
            return keys, values, inputs.k_order, kept
        held = ops.ring_order(inputs.past_order, window=self.span)
        return keys, values, ops.append(held, inputs.q_order), kept

    def _switches(self, weights: Weights, inputs: Inputs) -> dict[str, Any]:
        """The options of attention that this one has."""
        present = {
            "window": self.window,
            "chunk": self.chunk,
            "softcap": self.softcap,
            "temperature": None if self.temperature is None else inputs.temperatures[self.temperature],
            "sinks": weights["sinks"] if self.sinks else None,
        }
        return {name: value for name, value in present.items() if value is not None}

    def _query(self, ops: Ops, weights: Weights, x: Any) -> tuple[Any, Any | None]:
        """q [B, T, H, K] and, where there is one, the gate of the output, of the same shape."""
        both = self._project(ops, weights, x, "q", self.heads)
        if not self.output_gate:
            return both, None
        q, gate = ops.split(both, sizes=(self.head_dim, self.head_dim))
        return q, ops.tap("gate", gate)

    def _project(self, ops: Ops, weights: Weights, x: Any, name: str, heads: int) -> Any:
        projection = f"{name}_proj"
        y = ops.linear(x, weights[f"{projection}.weight"], *self._bias(weights, projection, self.qkv_bias))
        if self.qk_norm_over == "projection" and name != "v":
            y = self._norm(ops, weights, f"{name}_norm", ops.tap(projection, y))
            return ops.split_heads(y, heads=heads)
        return ops.tap(projection, ops.split_heads(y, heads=heads))

    def _norms(self) -> dict[str, RMSNorm]:
        """The norms of q and of k, in their sizes."""
        if self.qk_norm is None:
            return {}
        heads = (self.heads, self.kv_heads) if self.qk_norm_over == "projection" else (1, 1)
        sizes = zip(("q_norm", "k_norm"), heads, strict=True)
        return {name: replace(self.qk_norm, size=count * self.head_dim) for name, count in sizes}

    def _norm(self, ops: Ops, weights: Weights, name: str, x: Any) -> Any:
        norms = self._norms()
        return ops.tap(name, norms[name](ops, Scoped(weights, name), x)) if norms else x

    @staticmethod
    def _bias(weights: Weights, name: str, present: bool) -> tuple[Any, ...]:
        return (weights[f"{name}.bias"],) if present else ()
