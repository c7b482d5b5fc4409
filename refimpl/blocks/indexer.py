"""The indexer of sparse attention as a part of a token mixer: small queries and one key a token, scores, the choice of keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Block, Inputs, Scoped, Weights
from refimpl.blocks.norm import LayerNorm
from refimpl.blocks.rope import Rope
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Indexer(Block):
    """Which keys a query attends to.

    q = W_q c, split into heads;  k = norm(W_k x), one for all heads;  both rotated in their first entries
    w = W_w x · heads^-0.5
    selection = the top_k keys of the largest sum over heads of w · max(q · k · head_dim^-0.5, 0)

    c: the normed latent that the queries of attention are made of, `q_lora_rank` wide. The norm has a bias.
    """

    hidden_size: int
    q_lora_rank: int
    heads: int
    head_dim: int
    top_k: int
    rope: Rope
    norm_eps: float

    @property
    def norm(self) -> LayerNorm:
        return LayerNorm(size=self.head_dim, eps=self.norm_eps)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {
            "q_proj.weight": (self.heads * self.head_dim, self.q_lora_rank),
            "k_proj.weight": (self.head_dim, self.hidden_size),
            **{f"k_norm.{name}": shape for name, shape in self.norm.parameters().items()},
            "weights_proj.weight": (self.heads, self.hidden_size),
        }

    def flops(self, context: int) -> int:
        return super().flops(context) + 2 * context * self.heads * (self.head_dim + 1)

    def keys(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs) -> Any:
        """What the cache keeps of x [B, T, D]: [B, T, K]."""
        k = ops.tap("k_proj", ops.linear(x, weights["k_proj.weight"]))
        k = ops.tap("k_norm", self.norm(ops, Scoped(weights, "k_norm"), k))
        return ops.tap("k_rope", ops.merge_heads(self._rotate(ops, ops.split_heads(k, heads=1), inputs)))

    def __call__(self, ops: Ops, weights: Weights, x: Any, q_latent: Any, keys: Any, inputs: Inputs) -> Any:
        """The selection as a bias [B, 1, T, S] for x [B, T, D] and q_latent [B, T, Q] among all keys [B, S, K]."""
        q = ops.tap("q_proj", ops.split_heads(ops.linear(q_latent, weights["q_proj.weight"]), heads=self.heads))
        q = ops.tap("q_rope", self._rotate(ops, q, inputs))
        shares = ops.scale(ops.linear(x, weights["weights_proj.weight"]), factor=self.heads**-0.5)
        scores = ops.index_scores(q, keys, ops.tap("weights", shares), scale=self.head_dim**-0.5)
        orders = {"q_order": inputs.q_order, "k_order": inputs.k_order}
        return ops.tap("selection", ops.key_selection(ops.tap("scores", scores), top_k=self.top_k, **orders))

    def _rotate(self, ops: Ops, x: Any, inputs: Inputs) -> Any:
        layout = {"interleaved": True} if self.rope.interleaved else {}
        return ops.rotary_embedding(x, *inputs.rotations[self.rope], **layout)
