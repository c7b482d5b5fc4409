"""Multi-head latent attention as a token mixer: low-rank projections, a latent and one rotated key a token as cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Inputs, Scoped, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.indexer import Indexer
from refimpl.blocks.norm import RMSNorm
from refimpl.blocks.rope import Rope
from refimpl.blocks.temperature import Temperature
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class LatentAttention(TokenMixer):
    """Latent attention.

    q    = W_qb norm(W_qa x), or W_q x where `q_lora_rank` is None; each head is [q_nope, q_rope], the latter rotated
    c, r = W_kva x;  c normed, r rotated and shared by all heads;  keys and values of a head from c by W_kvb
    y    = attention(q, [k_nope, r], v) W_o

    norm_eps: of the norms between the projections. bias: on W_qa, W_kva and W_o.
    absorbed: whether W_kvb acts on the queries and on the mixed latents (`latent_attention`: the cache is c and r), or makes
    the keys and values that the cache keeps (`expand_latent`, then `attention`). The result is the same.
    indexer: chooses the keys that a query attends to, from x and the normed W_qa x, so that it needs `q_lora_rank`; None: all.
    """

    hidden_size: int
    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    scale: float
    rope: Rope | None
    norm_eps: float
    bias: bool = False
    temperature: Temperature | None = None
    indexer: Indexer | None = None
    absorbed: bool = True

    @property
    def head_dim(self) -> int:
        """The width of a query or of an expanded key."""
        return self.nope_head_dim + self.rope_head_dim

    def parameters(self) -> dict[str, tuple[int, ...]]:
        q_width, latent_width = self.heads * self.head_dim, self.kv_lora_rank + self.rope_head_dim
        found: dict[str, tuple[int, ...]] = {}
        if self.q_lora_rank is None:
            found["q_proj.weight"] = (q_width, self.hidden_size)
        else:
            found |= self._biased("q_a_proj", self.q_lora_rank, self.hidden_size)
            found["q_a_norm.weight"] = (self.q_lora_rank,)
            found["q_b_proj.weight"] = (q_width, self.q_lora_rank)
        found |= self._biased("kv_a_proj", latent_width, self.hidden_size)
        found["kv_a_norm.weight"] = (self.kv_lora_rank,)
        found["kv_b_proj.weight"] = (self.heads * (self.nope_head_dim + self.v_head_dim), self.kv_lora_rank)
        found |= self._biased("o_proj", self.hidden_size, self.heads * self.v_head_dim)
        if self.indexer is not None:
            found |= {f"indexer.{name}": shape for name, shape in self.indexer.parameters().items()}
        return found

    def state(self) -> dict[str, StateEntry]:
        shapes: dict[str, tuple[int, ...]] = {"latent": (self.kv_lora_rank,), "k_rope": (self.rope_head_dim,)}
        if not self.absorbed:
            shapes = {"key": (self.heads, self.head_dim), "value": (self.heads, self.v_head_dim)}
        if self.indexer is not None:
            shapes["index_key"] = (self.indexer.head_dim,)
        return {name: StateEntry(shape=shape) for name, shape in shapes.items()}

    def ropes(self) -> tuple[Rope, ...]:
        """The rotations that it uses."""
        own = () if self.rope is None else (self.rope,)
        return own if self.indexer is None else (*own, self.indexer.rope)

    def flops(self, context: int) -> int:
        # W_kvb costs the same in both forms: a token's queries and outputs pass it, or its latent does.
        key, value = self.head_dim, self.v_head_dim
        if self.absorbed:
            key, value = self.kv_lora_rank + self.rope_head_dim, self.kv_lora_rank
        flops = super().flops(context)
        if self.indexer is not None:  # its matrices are among the parameters
            flops += self.indexer.flops(context) - self.indexer.flops(0)
            context = min(context, self.indexer.top_k)
        return flops + 2 * context * self.heads * (key + value)

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        q_latent = self._query_latent(ops, weights, x)
        q = self._query(ops, weights, q_latent, inputs)
        latent, k_rope = self._latent(ops, weights, x, inputs)
        switches = self._switches(inputs)
        index_state: State = {}
        if self.indexer is not None:
            switches["bias"], index_state = self._selection(ops, weights, x, q_latent, inputs, state)
        mix = self._absorbed if self.absorbed else self._expanded
        mixed, new_state = mix(ops, weights, q, latent, k_rope, state, switches)
        y = ops.linear(ops.merge_heads(ops.tap("attention", mixed)), weights["o_proj.weight"], *self._bias(weights, "o_proj"))
        return ops.tap("o_proj", y), {**new_state, **index_state}

    def _query_latent(self, ops: Ops, weights: Weights, x: Any) -> Any:
        """What the queries are made of: the normed latent [B, T, Q], or x where there is none."""
        if self.q_lora_rank is None:
            return x
        low = ops.tap("q_a_proj", ops.linear(x, weights["q_a_proj.weight"], *self._bias(weights, "q_a_proj")))
        return ops.tap("q_a_norm", self._norm(self.q_lora_rank)(ops, Scoped(weights, "q_a_norm"), low))

    def _query(self, ops: Ops, weights: Weights, q_latent: Any, inputs: Inputs) -> Any:
        """q [B, T, H, N + P], its last P entries rotated."""
        weight = weights["q_proj.weight" if self.q_lora_rank is None else "q_b_proj.weight"]
        q = ops.tap("q_proj", ops.split_heads(ops.linear(q_latent, weight), heads=self.heads))
        nope, rope = ops.split(q, sizes=(self.nope_head_dim, self.rope_head_dim))
        return ops.concat(nope, ops.tap("q_rope", self._rotate(ops, rope, inputs)))

    def _latent(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs) -> tuple[Any, Any]:
        """The normed latents [B, T, L] and the rotated keys [B, T, P]."""
        both = ops.tap("kv_a_proj", ops.linear(x, weights["kv_a_proj.weight"], *self._bias(weights, "kv_a_proj")))
        latent, rope = ops.split(both, sizes=(self.kv_lora_rank, self.rope_head_dim))
        latent = ops.tap("kv_a_norm", self._norm(self.kv_lora_rank)(ops, Scoped(weights, "kv_a_norm"), latent))
        k_rope = ops.merge_heads(self._rotate(ops, ops.split_heads(rope, heads=1), inputs))
        return latent, ops.tap("k_rope", k_rope)

    def _selection(
        self, ops: Ops, weights: Weights, x: Any, q_latent: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, State]:
        """The indexer's choice as a bias on the logits, and its part of the state."""
        assert self.indexer is not None
        own = Scoped(weights, "indexer")
        with ops.scope("indexer"):
            kept = _remember(ops, state, {"index_key": self.indexer.keys(ops, own, x, inputs)})
            return self.indexer(ops, own, x, q_latent, kept["index_key"], inputs), kept

    def _absorbed(
        self, ops: Ops, weights: Weights, q: Any, latent: Any, k_rope: Any, state: State | None, switches: dict[str, Any]
    ) -> tuple[Any, State]:
        kept = _remember(ops, state, {"latent": latent, "k_rope": k_rope})
        values = (q, kept["latent"], kept["k_rope"], weights["kv_b_proj.weight"])
        return ops.latent_attention(*values, **switches), kept

    def _expanded(
        self, ops: Ops, weights: Weights, q: Any, latent: Any, k_rope: Any, state: State | None, switches: dict[str, Any]
    ) -> tuple[Any, State]:
        sizes = {"heads": self.heads, "v_head_dim": self.v_head_dim}
        key, value = ops.expand_latent(latent, k_rope, weights["kv_b_proj.weight"], **sizes)
        kept = _remember(ops, state, {"key": ops.tap("key", key), "value": ops.tap("value", value)})
        return ops.attention(q, kept["key"], kept["value"], **switches), kept

    def _switches(self, inputs: Inputs) -> dict[str, Any]:
        """The options of attention, the same in both forms."""
        tempered = {} if self.temperature is None else {"temperature": inputs.temperatures[self.temperature]}
        return {"scale": self.scale, "q_order": inputs.q_order, "k_order": inputs.k_order, **tempered}

    def _rotate(self, ops: Ops, x: Any, inputs: Inputs) -> Any:
        if self.rope is None:
            return x
        layout = {"interleaved": True} if self.rope.interleaved else {}
        return ops.rotary_embedding(x, *inputs.rotations[self.rope], **layout)

    def _norm(self, size: int) -> RMSNorm:
        return RMSNorm(size=size, eps=self.norm_eps)

    def _biased(self, name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows, columns)}
        return {**weight, f"{name}.bias": (rows,)} if self.bias else weight

    def _bias(self, weights: Weights, name: str) -> tuple[Any, ...]:
        return (weights[f"{name}.bias"],) if self.bias else ()


def _remember(ops: Ops, state: State | None, new: dict[str, Any]) -> State:
    """What the cache keeps with the new tokens appended."""
    return new if state is None else {name: ops.append(state[name], value) for name, value in new.items()}
