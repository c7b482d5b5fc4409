"""Sampling in standard operators; `refimpl.layers.sampling` says what each computes."""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value


def token_distribution(
    f: Body,
    logits: Value,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Value:
    wide = f.widen(logits)
    if temperature == 0:
        first = f.ArgMax(wide, axis=-1)
        return f.cast(f.Equal(f.Range(0, _vocabulary(f, wide), 1), first), logits.dtype)
    scaled = f.Div(f.Sub(wide, f.ReduceMax(wide, [-1])), temperature)
    if top_k is not None:
        best, _ = f.TopK(wide, f.Min(f.Shape(wide, start=-1), [top_k]), axis=-1, outputs=2)
        scaled = _keep(f, scaled, f.GreaterOrEqual(wide, f.ReduceMin(best, [-1])))
    if top_p is not None and top_p < 1:
        probabilities = f.Softmax(scaled, axis=-1)
        descending, _ = f.TopK(probabilities, f.Shape(probabilities, start=-1), axis=-1, outputs=2)
        before = f.CumSum(descending, np.asarray(-1), exclusive=1)
        infinite = f.constant(np.asarray(np.inf, wide.dtype))
        smallest = f.ReduceMin(f.Where(f.Less(before, top_p), descending, infinite), [-1])
        scaled = _keep(f, scaled, f.GreaterOrEqual(probabilities, smallest))
    if min_p is not None:
        probabilities = f.Softmax(scaled, axis=-1)
        scaled = _keep(f, scaled, f.GreaterOrEqual(probabilities, f.Mul(f.ReduceMax(probabilities, [-1]), min_p)))
    return f.cast(f.Softmax(scaled, axis=-1), logits.dtype)


def speculative_accept(f: Body, target: Value, draft: Value, drafts: Value, uniforms: Value) -> tuple[Value, Value]:
    p, q, u = f.widen(target), f.widen(draft), f.widen(uniforms)
    places = f.Unsqueeze(f.cast(drafts, np.dtype(np.int64)), [2])
    count = f.Shape(drafts, start=1)
    verified = f.Slice(p, [0], count, [1])
    p_at, q_at = (f.Squeeze(f.GatherElements(each, places, axis=2), [2]) for each in (verified, q))
    falls = f.cast(f.GreaterOrEqual(f.Mul(u, q_at), p_at), np.dtype(np.int64))
    stands = f.cast(f.Equal(f.CumSum(falls, np.asarray(1)), 0), np.dtype(np.int64))
    accepted = f.ReduceSum(stands, [1], keepdims=0)
    padded = f.Concat(q, f.Mul(f.Slice(p, [0], [1], [1]), 0.0), axis=1)
    rows = f.Unsqueeze(accepted, [1, 2])
    at = f.Expand(rows, f.Concat([1, 1], f.Shape(p, start=2), axis=0))
    p_here, q_here = (f.Squeeze(f.GatherElements(each, at, axis=1), [1]) for each in (p, padded))
    residual = f.Max(f.Sub(p_here, q_here), 0.0)
    total = f.ReduceSum(residual, [-1])
    whole = f.Or(f.Equal(f.Unsqueeze(accepted, [1]), count), f.Equal(total, 0.0))
    following = f.Where(whole, p_here, f.Div(residual, f.Where(whole, f.constant(np.asarray(1, p.dtype)), total)))
    return accepted, f.cast(following, target.dtype)


def _keep(f: Body, logits: Value, kept: Value) -> Value:
    """`logits` with -inf in place of those that are not kept."""
    kept_logits: Value = f.Where(kept, logits, f.constant(np.asarray(-np.inf, logits.dtype)))
    return kept_logits


def _vocabulary(f: Body, logits: Value) -> Value:
    """The size of the last axis, a scalar."""
    size: Value = f.Squeeze(f.Shape(logits, start=-1), [0])
    return size
