"""Indexers of sparse attention that are wrong in ways that are easy to write."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.layers.attention import default_places
from refimpl.numerics import Array

wide = computing_in(np.float32)


def _products(q: Array, k: Array, scale: float) -> Array:
    return np.einsum("BTHK,BSK->BTHS", q, k) * q.dtype.type(scale)


def _sum(weights: Array, products: Array) -> Array:
    return np.einsum("BTH,BTHS->BTS", weights, products)


@wide
def not_rectified(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return _sum(weights, _products(q, k, scale))


@wide
def sum_rectified(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return np.maximum(_sum(weights, _products(q, k, scale)), 0)


@wide
def rectified_after_the_weight(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return np.maximum(weights[..., None] * _products(q, k, scale), 0).sum(axis=2)


@wide
def mean_over_heads(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return layers.index_scores(q, k, weights / q.dtype.type(q.shape[2]), scale=scale)


@wide
def weights_divided_again(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return layers.index_scores(q, k, weights / np.sqrt(q.dtype.type(q.shape[2])), scale=scale)


@wide
def scale_dropped(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return layers.index_scores(q, k, weights, scale=1.0)


@wide
def softmax_over_heads(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    exponentials = np.exp(weights - weights.max(axis=-1, keepdims=True))
    return layers.index_scores(q, k, exponentials / exponentials.sum(axis=-1, keepdims=True), scale=scale)


@wide
def weights_of_the_heads_reversed(q: Array, k: Array, weights: Array, *, scale: float) -> Array:
    return layers.index_scores(q, k, weights[..., ::-1], scale=scale)


def _places(scores: Array, options: Any) -> tuple[Array, Array]:
    B, T, S = scores.shape
    return default_places("key_selection", B, T, S, options.get("q_order"), options.get("k_order"))


def _chosen(scores: Array, top_k: int) -> Array:
    """The top_k largest of all scores, as a bias."""
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]
    bias = np.full(scores.shape, -np.inf, scores.dtype)
    np.put_along_axis(bias, best, 0, axis=-1)
    return bias[:, None]


def _visible(scores: Array, options: Any) -> Array:
    return layers.attention_mask(*_places(scores, options), causal=options.get("causal", True))


@wide
def best_of_all_then_masked(scores: Array, *, top_k: int, **options: Any) -> Array:
    visible = _visible(scores, options)
    return np.where(visible[:, None], _chosen(scores, top_k), scores.dtype.type(-np.inf))


@wide
def mask_forgotten(scores: Array, *, top_k: int, **options: Any) -> Array:
    return _chosen(scores, top_k)


@wide
def hidden_scores_at_zero(scores: Array, *, top_k: int, **options: Any) -> Array:
    visible = _visible(scores, options)
    chosen = _chosen(np.where(visible, scores, scores.dtype.type(0)), top_k)
    return np.where(visible[:, None], chosen, scores.dtype.type(-np.inf))


@wide
def hidden_keys_fill_the_rest(scores: Array, *, top_k: int, **options: Any) -> Array:
    """Queries that see fewer than top_k keys get others as well."""
    return _chosen(np.where(_visible(scores, options), scores, scores.dtype.type(-np.inf)), top_k)


@wide
def padding_chosen(scores: Array, *, top_k: int, **options: Any) -> Array:
    q_order, k_order = _places(scores, options)
    visible = np.ones(scores.shape, bool)
    if options.get("causal", True):
        visible = layers.causal_mask(q_order, k_order)
    return _chosen(np.where(visible, scores, scores.dtype.type(-np.inf)), top_k)


@wide
def columns_for_places(
    scores: Array, *, top_k: int, causal: bool = True, q_order: Array | None = None, k_order: Array | None = None
) -> Array:
    return layers.key_selection(scores, top_k=top_k, causal=causal)


@wide
def largest_by_size(scores: Array, *, top_k: int, **options: Any) -> Array:
    return layers.key_selection(np.abs(scores), top_k=top_k, **options)


@wide
def smallest_scores(scores: Array, *, top_k: int, **options: Any) -> Array:
    return layers.key_selection(-scores, top_k=top_k, **options)


@wide
def latest_keys(scores: Array, *, top_k: int, causal: bool = True, **options: Any) -> Array:
    q_order, k_order = _places(scores, options)
    if not causal:
        return layers.key_selection(scores, top_k=top_k, causal=causal, **options)
    return np.where(layers.sliding_window_mask(q_order, k_order, window=top_k) & (k_order >= 0)[:, None], 0, -np.inf)[
        :, None
    ].astype(scores.dtype)


def _one_key(difference: int) -> Function:
    @wide
    def key_selection(scores: Array, *, top_k: int, **options: Any) -> Array:
        return layers.key_selection(scores, top_k=max(top_k + difference, 1), **options)

    return key_selection


@wide
def equal_scores_all_kept(scores: Array, *, top_k: int, **options: Any) -> Array:
    """Everything from the top_k-th largest score on."""
    visible = _visible(scores, options)
    shown = np.where(visible, scores, scores.dtype.type(-np.inf))
    border = np.sort(shown, axis=-1)[..., -min(top_k, scores.shape[-1]), None]
    kept = visible & (shown >= border)
    return np.where(kept, scores.dtype.type(0), scores.dtype.type(-np.inf))[:, None]


@wide
def always_causal(scores: Array, *, top_k: int, causal: bool = True, **options: Any) -> Array:
    return layers.key_selection(scores, top_k=top_k, **options)


@wide
def lowest_number_for_minus_infinity(scores: Array, *, top_k: int, **options: Any) -> Array:
    selection = layers.key_selection(scores, top_k=top_k, **options)
    return np.maximum(selection, scores.dtype.type(-1e4))


SCORES, SELECTION = "index_scores", "key_selection"
MUTANTS = tuple(
    layer(id, function, faulty, says)
    for id, function, faulty, says in (
        ("index-products-not-rectified", SCORES, not_rectified, "Negative products count."),
        ("index-sum-rectified", SCORES, sum_rectified, "The weighted sum is rectified and not its terms."),
        (
            "index-products-rectified-after-their-weight",
            SCORES,
            rectified_after_the_weight,
            "Products are rectified with their weights.",
        ),
        ("index-heads-averaged", SCORES, mean_over_heads, "Scores are the mean over the heads."),
        (
            "index-weights-divided-again",
            SCORES,
            weights_divided_again,
            "Weights are divided by the root of the number of heads again.",
        ),
        ("index-scale-dropped", SCORES, scale_dropped, "Products are not scaled."),
        ("softmax-over-index-weights", SCORES, softmax_over_heads, "Weights are a softmax over the heads."),
        ("index-weights-of-other-heads", SCORES, weights_of_the_heads_reversed, "Each head has the weight of another."),
        ("keys-selected-before-the-mask", SELECTION, best_of_all_then_masked, "The best of all keys are chosen, then masked."),
        ("keys-selected-without-a-mask", SELECTION, mask_forgotten, "Later keys and padding may be chosen."),
        (
            "hidden-keys-at-score-0",
            SELECTION,
            hidden_scores_at_zero,
            "Hidden keys score 0, which is more than negative scores.",
        ),
        (
            "hidden-keys-fill-the-selection",
            SELECTION,
            hidden_keys_fill_the_rest,
            "A query that sees few keys gets hidden ones as well.",
        ),
        ("padding-selected", SELECTION, padding_chosen, "Padding may be chosen."),
        ("selection-by-columns", SELECTION, columns_for_places, "Which keys are earlier is read off their columns."),
        ("selection-by-size", SELECTION, largest_by_size, "Scores are compared by their size, whatever the sign."),
        ("smallest-scores-selected", SELECTION, smallest_scores, "The lowest scores are chosen."),
        ("latest-keys-selected", SELECTION, latest_keys, "The latest keys are chosen: a window."),
        ("one-key-too-many-selected", SELECTION, _one_key(1), "One key too many is chosen."),
        ("one-key-too-few-selected", SELECTION, _one_key(-1), "One key too few is chosen."),
        ("all-equal-scores-selected", SELECTION, equal_scores_all_kept, "All keys that tie with the last one are chosen."),
        ("selection-always-causal", SELECTION, always_causal, "The choice is causal where the caller asks for none."),
        (
            "low-number-for-minus-infinity",
            SELECTION,
            lowest_number_for_minus_infinity,
            "Keys that are not chosen get a low number.",
        ),
    )
)
