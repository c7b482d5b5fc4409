"""Norms as parts of a model: which one, how wide, with which eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Block, Weights
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class RMSNorm(Block):
    """`rms_norm` over `size` entries, with a weight unless `weightless`."""

    size: int
    eps: float
    zero_centred: bool = False
    weightless: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {} if self.weightless else {"weight": (self.size,)}

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        if self.weightless:
            return ops.rms_norm(x, eps=self.eps)
        options = {"zero_centred": True} if self.zero_centred else {}
        return ops.rms_norm(x, weights["weight"], eps=self.eps, **options)


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Block):
    """`layer_norm` over `size` entries, with a weight and a bias."""

    size: int
    eps: float

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.size,), "bias": (self.size,)}

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        return ops.layer_norm(x, weights["weight"], weights["bias"], eps=self.eps)


Norm = RMSNorm | LayerNorm
