"""The indexer of sparse attention, right in other ways."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from refimpl.layers.attention import default_places
from tests.conformance.computing import computing_in


@computing_in(np.float32)
def scores_head_by_head(q, k, weights, *, scale):
    """Heads from the last to the first; the scale multiplies the sum."""
    total = np.zeros((*q.shape[:2], k.shape[1]), q.dtype)
    for head in reversed(range(q.shape[2])):
        total += weights[:, :, head, None] * np.maximum(q[:, :, head] @ k.swapaxes(1, 2), 0)
    return total * q.dtype.type(scale)


@computing_in(np.float64)
def scores_in_one_sum(q, k, weights, *, scale):
    products = np.einsum("BTHK,BSK->BTHS", q, k)
    return np.einsum("BTH,BTHS->BTS", weights * scale, products * (products > 0))


@computing_in(np.float32)
def ties_from_the_highest_place(scores, *, top_k, causal=True, q_order=None, k_order=None):
    """Of equal scores the latest key, whichever column it is in."""
    q_order, k_order = default_places("key_selection", *scores.shape, q_order, k_order)
    visible = layers.attention_mask(q_order, k_order, causal=causal)
    selection = np.full(scores.shape, -np.inf, scores.dtype)
    for b, t in np.ndindex(scores.shape[:2]):
        seen = np.flatnonzero(visible[b, t])
        best = sorted(seen, key=lambda s, b=b, t=t: (scores[b, t, s], k_order[b, s]), reverse=True)
        selection[b, t, best[:top_k]] = 0
    return selection[:, None]


INDEXER_VARIANTS = {
    "index scores head by head, ties from the highest place": {
        "index_scores": scores_head_by_head,
        "key_selection": ties_from_the_highest_place,
    },
    "index scores in one sum": {"index_scores": scores_in_one_sum},
}
