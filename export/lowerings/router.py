"""Routers in standard operators; `refimpl.layers.router` says what each computes.

TopK takes the lower index of equal scores, as the routers do.
"""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value
from export.lowerings.attention import soft_cap
from export.lowerings.mlp import logistic


def top_k_softmax_router(f: Body, logits: Value, *, top_k: int) -> tuple[Value, Value]:
    chosen, indices = f.TopK(f.widen(logits), [top_k], axis=-1, outputs=2)
    return indices, f.cast(f.Softmax(chosen, axis=-1), logits.dtype)


def softmax_top_k_router(f: Body, logits: Value, *, top_k: int, renormalise: bool) -> tuple[Value, Value]:
    chosen, indices = f.TopK(f.Softmax(f.widen(logits), axis=-1), [top_k], axis=-1, outputs=2)
    weights = f.Div(chosen, f.ReduceSum(chosen, [-1])) if renormalise else chosen
    return indices, f.cast(weights, logits.dtype)


def softcapped_softmax_router(f: Body, logits: Value, *, top_k: int, softcap: float) -> tuple[Value, Value]:
    indices, weights = softmax_top_k_router(f, soft_cap(f, f.widen(logits), cap=softcap), top_k=top_k, renormalise=False)
    return indices, f.cast(weights, logits.dtype)


def sigmoid_router(
    f: Body,
    logits: Value,
    correction_bias: Value | None = None,
    *,
    top_k: int,
    groups: int = 1,
    top_groups: int = 1,
    renormalise: bool = True,
    eps: float = 1e-20,
    scaling_factor: float = 1.0,
) -> tuple[Value, Value]:
    scores = logistic(f, f.widen(logits))
    corrected = scores if correction_bias is None else f.Add(scores, f.widen(correction_bias))
    if groups > 1:
        corrected = _within_groups(f, corrected, groups, top_groups)
    _, indices = f.TopK(corrected, [top_k], axis=-1, outputs=2)
    weights = f.GatherElements(scores, indices, axis=len(scores.shape) - 1)
    if renormalise:
        weights = f.Div(weights, f.Add(f.ReduceSum(weights, [-1]), eps))
    return indices, f.cast(f.Mul(weights, scaling_factor), logits.dtype)


def top_k_sigmoid_router(f: Body, logits: Value, *, top_k: int) -> tuple[Value, Value]:
    chosen, indices = f.TopK(f.widen(logits), [top_k], axis=-1, outputs=2)
    return indices, f.cast(logistic(f, chosen), logits.dtype)


def _within_groups(f: Body, corrected: Value, groups: int, top_groups: int) -> Value:
    """Scores [..., E] with -inf outside the best groups."""
    grouped = f.Reshape(corrected, [*[0] * (len(corrected.shape) - 1), groups, -1])
    best, _ = f.TopK(grouped, f.Min(f.Shape(grouped, start=-1), [2]), axis=-1, outputs=2)
    _, chosen = f.TopK(f.ReduceSum(best, [-1], keepdims=0), [top_groups], axis=-1, outputs=2)
    hits = f.cast(f.Equal(f.Unsqueeze(chosen, [-1]), f.constant(np.arange(groups))), np.dtype(np.int32))
    inside = f.Unsqueeze(f.cast(f.ReduceMax(hits, [-2], keepdims=0), np.dtype(bool)), [-1])
    outside = f.constant(np.asarray(-np.inf, corrected.dtype))
    return f.known(f.Reshape(f.Where(inside, grouped, outside), f.Shape(corrected)), corrected.shape)
