"""The ends of a model: the embeddings of tokens and of positions, and the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Block, Weights
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Embedding(Block):
    """`embedding` with a table [V, D], scaled where the release scales it."""

    vocab_size: int
    hidden_size: int
    scale: float | None = None

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.vocab_size, self.hidden_size)}

    def flops(self, context: int) -> int:
        return 0

    def __call__(self, ops: Ops, weights: Weights, tokens: Any) -> Any:
        options = {} if self.scale is None else {"scale": self.scale}
        return ops.embedding(tokens, weights["weight"], **options)


@dataclass(frozen=True, kw_only=True)
class PositionEmbedding(Block):
    """`position_embedding`: a learned table [C, D] that is added to the embedding."""

    positions: int
    hidden_size: int

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.positions, self.hidden_size)}

    def flops(self, context: int) -> int:
        return 0

    def __call__(self, ops: Ops, weights: Weights, positions: Any) -> Any:
        return ops.position_embedding(positions, weights["weight"])


@dataclass(frozen=True, kw_only=True)
class Head(Block):
    """`lm_head`; a tied head has no parameters of its own and reads the embedding table."""

    vocab_size: int
    hidden_size: int
    tied: bool
    scale: float | None = None
    softcap: float | None = None

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {} if self.tied else {"weight": (self.vocab_size, self.hidden_size)}

    def flops(self, context: int) -> int:
        return 2 * self.vocab_size * self.hidden_size

    def __call__(self, ops: Ops, table: Any, x: Any) -> Any:
        present = {"scale": self.scale, "softcap": self.softcap}
        return ops.lm_head(x, table, **{name: value for name, value in present.items() if value is not None})
