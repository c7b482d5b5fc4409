"""Routers as parts of a model: a linear map to one logit an expert, and the function that chooses."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Block, Weights
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Router(Block):
    """logits = x Wᵀ (+ b), from which `choose` makes the top_k experts of each token and their weights."""

    hidden_size: int
    experts: int
    top_k: int
    bias: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.experts, self.hidden_size)}
        return {**shapes, "bias": (self.experts,)} if self.bias else shapes

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> tuple[Any, Any]:
        """Indices and weights, each [B, T, A]."""
        logits = ops.linear(x, weights["weight"], *((weights["bias"],) if self.bias else ()))
        indices, shares = self.choose(ops, weights, ops.tap("logits", logits))
        return ops.tap("indices", indices), ops.tap("weights", shares)

    @abstractmethod
    def choose(self, ops: Ops, weights: Weights, logits: Any) -> tuple[Any, Any]:
        """Indices and weights from logits [B, T, E]."""


@dataclass(frozen=True, kw_only=True)
class TopKSoftmax(Router):
    """`top_k_softmax_router` (gpt-oss)."""

    def choose(self, ops: Ops, weights: Weights, logits: Any) -> tuple[Any, Any]:
        return ops.top_k_softmax_router(logits, top_k=self.top_k)


@dataclass(frozen=True, kw_only=True)
class SoftmaxTopK(Router):
    """`softmax_top_k_router` (Qwen3-MoE)."""

    renormalise: bool

    def choose(self, ops: Ops, weights: Weights, logits: Any) -> tuple[Any, Any]:
        return ops.softmax_top_k_router(logits, top_k=self.top_k, renormalise=self.renormalise)


@dataclass(frozen=True, kw_only=True)
class SoftcappedSoftmax(Router):
    """`softcapped_softmax_router` (Grok 2)."""

    softcap: float

    def choose(self, ops: Ops, weights: Weights, logits: Any) -> tuple[Any, Any]:
        return ops.softcapped_softmax_router(logits, top_k=self.top_k, softcap=self.softcap)


@dataclass(frozen=True, kw_only=True)
class SigmoidTopK(Router):
    """`sigmoid_router` with a correction bias (DeepSeek-V3, GLM-4.5, MiniMax-M2)."""

    renormalise: bool
    scaling_factor: float = 1.0
    eps: float = 1e-20
    groups: int = 1
    top_groups: int = 1

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {**super().parameters(), "correction_bias": (self.experts,)}

    def buffers(self) -> frozenset[str]:
        return frozenset({"correction_bias"})

    def choose(self, ops: Ops, weights: Weights, logits: Any) -> tuple[Any, Any]:
        grouped = {"groups": self.groups, "top_groups": self.top_groups} if self.groups > 1 else {}
        return ops.sigmoid_router(
            logits,
            weights["correction_bias"],
            top_k=self.top_k,
            renormalise=self.renormalise,
            eps=self.eps,
            scaling_factor=self.scaling_factor,
            **grouped,
        )


@dataclass(frozen=True, kw_only=True)
class TopKSigmoid(Router):
    """`top_k_sigmoid_router` (Llama 4)."""

    def choose(self, ops: Ops, weights: Weights, logits: Any) -> tuple[Any, Any]:
        return ops.top_k_sigmoid_router(logits, top_k=self.top_k)
