"""The indexer of sparse attention in other orders, with other choices among equals."""

from __future__ import annotations

import numpy as np

from conformance.computing import computing_in
from conformance.variants.variant import float32, layer
from refimpl import layers
from refimpl.layers.attention import default_places
from refimpl.numerics import Array


@float32
def _scores_head_by_head(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    """Heads from the last to the first; the scale multiplies the sum."""
    total = np.zeros((*q.shape[:2], k.shape[1]), q.dtype)
    for head in reversed(range(q.shape[2])):
        total += weights[:, :, head, None] * np.maximum(q[:, :, head] @ k.swapaxes(1, 2), 0)
    return total * q.dtype.type(scale)


@computing_in(np.float64)
def _scores_in_one_sum(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    products = np.einsum("BTHK,BSK->BTHS", q, k)
    return np.einsum("BTH,BTHS->BTS", weights * scale, products * (products > 0))


@float32
def _ties_from_the_highest_place(
    scores: Array, *, top_k: int, causal: bool = True, q_order: Array | None = None, k_order: Array | None = None
) -> Array:
    """Of equal scores the latest key, whichever column it is in."""
    q_order, k_order = default_places("key_selection", scores.shape[0], scores.shape[1], scores.shape[2], q_order, k_order)
    visible = layers.attention_mask(q_order, k_order, causal=causal)
    selection = np.full(scores.shape, -np.inf, scores.dtype)
    for b, t in np.ndindex(scores.shape[:2]):
        seen = np.flatnonzero(visible[b, t])
        order = np.lexsort((k_order[b, seen], scores[b, t, seen]))[::-1]
        selection[b, t, seen[order[:top_k]]] = 0
    return selection[:, None]


VARIANTS = (
    layer(
        "index-scores-head-by-head",
        "Heads from the last to the first, then the scale; of equal scores the latest key is kept.",
        index_scores=_scores_head_by_head,
        key_selection=_ties_from_the_highest_place,
    ),
    layer("index-scores-in-one-sum", "The scale is in the heads' weights, in float64.", index_scores=_scores_in_one_sum),
)
