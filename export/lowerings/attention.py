"""Attention in standard operators; `refimpl.layers.attention` says what it computes.

Keys and values come heads first, [B, G, S, K]: the layout in which the cache enters and leaves a graph, so that no step
transposes the past. Which keys a query sees comes as a mask, which layers share.
"""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value


def attention(
    f: Body,
    q: Value,
    k: Value,
    v: Value,
    visible: Value,
    sinks: Value | None = None,
    bias: Value | None = None,
    *,
    scale: float,
    softcap: float | None = None,
) -> Value:
    """q [B, T, H, K], k [B, G, S, K], v [B, G, S, J], visible bool [B, T, S] (or with B = 1) -> [B, T, H, J]."""
    heads, groups = q.size(2), k.size(1)
    visible_B1TS = f.Unsqueeze(visible, [1])
    q_BHTK = f.Transpose(q, perm=[0, 2, 1, 3])
    # The heads of a group are stacked along the query axis: a group is one matrix product and no key is repeated.
    q_BGtK = q_BHTK if heads == groups else f.Reshape(q_BHTK, [0, groups, -1, 0])
    logits = f.Mul(f.MatMul(q_BGtK, f.Transpose(k, perm=[0, 1, 3, 2])), scale)
    if heads != groups:
        logits = f.Reshape(logits, [0, heads, -1, 0])
    if softcap is not None:
        logits = soft_cap(f, logits, cap=softcap)
    if bias is not None:
        logits = f.Add(logits, bias)
    weights_BHTS = f.cast(_masked_softmax(f, f.widen(logits), visible_B1TS, sinks), q.dtype)
    weights_BGtS = weights_BHTS if heads == groups else f.Reshape(weights_BHTS, [0, groups, -1, 0])
    mixed = f.MatMul(weights_BGtS, v)
    if heads != groups:
        mixed = f.Reshape(mixed, [0, heads, -1, 0])
    return f.Transpose(_silence_blind_rows(f, mixed, visible_B1TS), perm=[0, 2, 1, 3])


def soft_cap(f: Body, x: Value, *, cap: float) -> Value:
    return f.Mul(f.Tanh(f.Div(x, cap)), cap)


def _masked_softmax(f: Body, logits: Value, visible: Value, sinks: Value | None) -> Value:
    """Softmax with the lowest number for hidden keys, whose weight becomes 0 in every row that sees a key.

    A sink is one more column, left out of the result.
    """
    hidden = f.constant(np.asarray(np.finfo(logits.dtype).min))
    masked = f.Where(visible, logits, hidden)
    if sinks is None:
        return f.Softmax(masked, axis=-1)
    like_column = f.Slice(f.Shape(logits), [0], [3])
    sink_H11 = f.Reshape(f.widen(sinks), [-1, 1, 1])
    column_BHT1 = f.Expand(sink_H11, f.Concat(like_column, [1], axis=0))
    weights = f.Softmax(f.Concat(masked, column_BHT1, axis=-1), axis=-1)
    return f.Slice(weights, [0], [-1], [3])


def _silence_blind_rows(f: Body, mixed_BHTJ: Value, visible_B1TS: Value) -> Value:
    """0 where a query sees no key: the softmax of equal numbers is not."""
    seen = f.ReduceMax(f.cast(visible_B1TS, np.dtype(np.int32)), [-1])
    return f.Where(f.Equal(seen, 1), mixed_BHTJ, f.constant(np.asarray(0, mixed_BHTJ.dtype)))
