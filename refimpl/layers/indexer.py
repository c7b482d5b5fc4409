"""The indexer of sparse attention: cheap scores of every key for every query, and the choice of the keys to attend to."""

from __future__ import annotations

import numpy as np

from refimpl.layers.attention import default_places
from refimpl.layers.mask import attention_mask
from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_counts, check_floats, check_integers, check_numbers


@float32_inside
def index_scores(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    """How much a query wants each key: rectified products of many small heads, summed with weights of the query.

    s_tu = sum over h of w_th · max(scale · q_th · k_u, 0)

    Shapes: q [B, T, H, K], k [B, S, K], weights [B, T, H]; scores [B, T, S].
    Rules:
      R1  a product below 0 counts as 0, before it is weighted; a weight may be negative.
      R2  all heads share one key; the sum over heads is not divided by their number (the caller's weights are).
      R3  nothing is masked: a score does not depend on the other keys, nor on where the keys stand.
    Dtype: T1  products, weights and sum in float32; the result is cast back here, where releases keep it in float32.
           This function computes in the dtype of q.
    Pitfalls: the sum rectified instead of each product; a softmax over keys; the weights' own factor, heads^-0.5, forgotten,
      which changes no choice as long as nothing else is added.
    Source: DeepSeek-V3.2-Exp report, section 2.1. The release turns q and k by the same Hadamard matrix, which changes no
      product, to store them in FP8, which is left out here.
    """
    check("index_scores", q=(q, "BTHK"), k=(k, "BSK"), weights=(weights, "BTH"))
    check_floats("index_scores", q=q, k=k, weights=weights)
    check_numbers("index_scores", scale=scale, above=0)
    B, T, H, K = q.shape
    products_BTHS = (q.reshape(B, T * H, K) @ k.swapaxes(1, 2)).reshape(B, T, H, k.shape[1])
    rectified_BTHS = np.maximum(products_BTHS * q.dtype.type(scale), 0)
    return (weights[:, :, None] @ rectified_BTHS)[:, :, 0]


def key_selection(
    scores: Array, *, top_k: int, causal: bool = True, q_order: Array | None = None, k_order: Array | None = None
) -> Array:
    """The top_k best of the keys that a query sees, as a bias on the logits of attention.

    bias_ts = 0 for the top_k visible keys s of the largest scores_ts, -inf for all others

    Shapes: scores [B, T, S]; bias [B, 1, T, S], the same for all heads. q_order int [B, T], k_order int [B, S]: places as in
      `attention`, and by default the same.
    Rules:
      R1  the choice is among keys at the query's own place and before (among all unless `causal`), never at a negative place.
      R2  a query that sees at most top_k keys keeps all of them, whatever their scores.
      R3  of equal scores the lowest place is chosen first.
      R4  the choice follows the places, not the order in which keys are stored.
      R5  a query that sees no key keeps none.
    Dtype: T1  nothing is computed. The bias has the dtype of scores.
    Pitfalls: the best of all keys, later ones and padding included, which leaves early queries few or none; 0 where -inf is
      meant; the largest scores by size instead of by value (weights may be negative).
    Source: DeepSeek-V3.2-Exp report, section 2.1.
    """
    layer = "key_selection"
    sizes = check(layer, scores=(scores, "BTS"), q_order=(q_order, "BT?"), k_order=(k_order, "BS?"))
    check_floats(layer, scores=scores)
    check_integers(layer, q_order=q_order, k_order=k_order)
    check_counts(layer, top_k=top_k)
    q_order, k_order = default_places(layer, sizes["B"], sizes["T"], sizes["S"], q_order, k_order)
    visible_BTS = attention_mask(q_order, k_order, causal=causal)
    places_BTS = np.broadcast_to(k_order[:, None], scores.shape)
    # Visible before hidden, then by score, then by place.
    best_BTA = np.lexsort((places_BTS, -scores, ~visible_BTS), axis=-1)[..., :top_k]
    chosen_BTS = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen_BTS, best_BTA, True, axis=-1)
    zero, hidden = scores.dtype.type(0), scores.dtype.type(-np.inf)
    return np.where(chosen_BTS & visible_BTS, zero, hidden)[:, None]
