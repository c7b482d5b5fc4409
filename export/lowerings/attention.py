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
    temperature: Value | None = None,
    bias: Value | None = None,
    *,
    scale: float,
    softcap: float | None = None,
) -> Value:
    """q [B, T, H, K], k [B, G, S, K], v [B, G, S, J], visible bool [B, T, S] (or with B = 1) -> [B, T, H, J]."""
    # The heads of a group are stacked along the query axis: a group is one matrix product and no key is repeated.
    heads, groups = q.size(2), k.size(1)
    q_BHTK = f.Transpose(q, perm=[0, 2, 1, 3])
    q_BGtK = q_BHTK if heads == groups else f.Reshape(q_BHTK, [0, groups, -1, 0])
    logits = f.Mul(f.MatMul(q_BGtK, f.Transpose(k, perm=[0, 1, 3, 2])), scale)
    if heads != groups:
        logits = f.Reshape(logits, [0, heads, -1, 0])
    if softcap is not None:
        logits = soft_cap(f, logits, cap=softcap)
    weights_BHTS, seen = visible_softmax(f, logits, visible, sinks=sinks, temperature=temperature, bias=bias)
    weights_BGtS = weights_BHTS if heads == groups else f.Reshape(weights_BHTS, [0, groups, -1, 0])
    mixed_BHTJ = f.MatMul(weights_BGtS, v)
    if heads != groups:
        mixed_BHTJ = f.Reshape(mixed_BHTJ, [0, heads, -1, 0])
    zero = f.constant(np.asarray(0, q.dtype))
    y_BTHJ = f.Transpose(f.Where(seen, mixed_BHTJ, zero), perm=[0, 2, 1, 3])
    return f.known(y_BTHJ, [*q.shape[:3], v.shape[3]])


def visible_softmax(
    f: Body,
    logits: Value,
    visible: Value,
    *,
    sinks: Value | None = None,
    temperature: Value | None = None,
    bias: Value | None = None,
) -> tuple[Value, Value]:
    """The weights [B, H, T, S] of the visible keys, and which rows see any: those of the others must not count."""
    if temperature is not None:
        logits = f.Mul(logits, f.Unsqueeze(temperature, [1, 3]))
    if bias is not None:
        logits = f.Add(logits, bias)
    masked = _masked(f, f.widen(logits), visible)
    weights = f.cast(_softmax(f, masked, sinks), logits.dtype)
    return weights, _sees_a_key(f, visible) if bias is None else _has_a_finite_score(f, masked)


def soft_cap(f: Body, x: Value, *, cap: float) -> Value:
    return f.Mul(f.Tanh(f.Div(x, cap)), cap)


def _masked(f: Body, logits: Value, visible: Value) -> Value:
    """Hidden keys at the lowest number, which leaves them no weight in a row that sees a key.

    It is added: next to the lowest number a logit is nothing, and a sum is faster than a choice.
    """
    lowest = f.constant(np.asarray(np.finfo(logits.dtype).min))
    shown = f.constant(np.asarray(0, logits.dtype))
    return f.Add(logits, f.Unsqueeze(f.Where(visible, shown, lowest), [1]))


def _softmax(f: Body, logits: Value, sinks: Value | None) -> Value:
    """Softmax; a sink is one more column, left out of the result."""
    if sinks is None:
        return f.Softmax(logits, axis=-1)
    rows = f.Slice(f.Shape(logits), [0], [3])
    column_BHT1 = f.Expand(f.Reshape(f.widen(sinks), [-1, 1, 1]), f.Concat(rows, [1], axis=0))
    weights = f.Softmax(f.Concat(logits, column_BHT1, axis=-1), axis=-1)
    return f.Slice(weights, [0], [-1], [3])


def _sees_a_key(f: Body, visible: Value) -> Value:
    """[B, 1, T, 1]: false where the softmax is one of equal numbers and must not count."""
    return f.Unsqueeze(f.Equal(f.ReduceMax(f.cast(visible, np.dtype(np.int32)), [-1]), 1), [1])


def _has_a_finite_score(f: Body, masked: Value) -> Value:
    """The same [B, H, T, 1] where a bias of -inf may hide what the mask shows."""
    lowest = f.constant(np.asarray(np.finfo(masked.dtype).min))
    return f.Greater(f.ReduceMax(masked, [-1]), lowest)
