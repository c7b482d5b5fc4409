"""The indexer of sparse attention in standard operators; `refimpl.layers.indexer` says what it computes.

TopK takes the first of equal scores, so keys are brought into the order of their places before, where storage has another.
"""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value


def index_scores(f: Body, q: Value, k: Value, weights: Value, *, scale: float) -> Value:
    """q [B, T, H, K], k [B, S, K], weights [B, T, H] -> [B, T, S]."""
    k_B1KS = f.Unsqueeze(f.Transpose(f.widen(k), perm=[0, 2, 1]), [1])
    rectified_BTHS = f.Relu(f.Mul(f.MatMul(f.widen(q), k_B1KS), scale))
    scores = f.Squeeze(f.MatMul(f.Unsqueeze(f.widen(weights), [2]), rectified_BTHS), [2])
    return f.known(f.cast(scores, q.dtype), [*q.shape[:2], k.shape[1]])


def key_selection(f: Body, scores: Value, visible: Value, by_place: Value | None = None, *, top_k: int) -> Value:
    """scores [B, T, S], visible bool [B, T, S], by_place int [B, S] (or both with B = 1) -> [B, 1, T, S].

    by_place: the columns in the order of their places; absent, they stand so.
    """
    hidden, zero = (f.constant(np.asarray(value, scores.dtype)) for value in (-np.inf, 0))
    shape = f.Shape(scores)
    candidates = f.Where(visible, f.widen(scores), f.constant(np.asarray(-np.inf, f.widen(scores).dtype)))
    if by_place is not None:
        columns = f.Expand(f.Unsqueeze(by_place, [1]), shape)
        candidates = f.GatherElements(candidates, columns, axis=2)
    count = f.Min(f.Shape(scores, start=2), [top_k])
    _, best = f.TopK(candidates, count, axis=2, outputs=2)
    if by_place is not None:
        best = f.GatherElements(columns, best, axis=2)
    chosen = f.ScatterElements(f.Expand(hidden, shape), best, f.Expand(zero, f.Shape(best)), axis=2)
    selection = f.Unsqueeze(f.Where(visible, chosen, hidden), [1])
    return f.known(selection, [scores.shape[0], 1, *scores.shape[1:]])
