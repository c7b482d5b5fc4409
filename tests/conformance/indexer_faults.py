"""The indexer of sparse attention, wrong in ways that are easy to write."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from refimpl.layers.attention import default_places
from tests.conformance.computing import computing_in

wide = computing_in(np.float32)


def _products(q, k, scale):
    return np.einsum("BTHK,BSK->BTHS", q, k) * q.dtype.type(scale)


def _sum(weights, products):
    return np.einsum("BTH,BTHS->BTS", weights, products)


@wide
def not_rectified(q, k, weights, *, scale):
    return _sum(weights, _products(q, k, scale))


@wide
def sum_rectified(q, k, weights, *, scale):
    return np.maximum(_sum(weights, _products(q, k, scale)), 0)


@wide
def rectified_after_the_weight(q, k, weights, *, scale):
    return np.maximum(weights[..., None] * _products(q, k, scale), 0).sum(axis=2)


@wide
def mean_over_heads(q, k, weights, *, scale):
    return layers.index_scores(q, k, weights / q.dtype.type(q.shape[2]), scale=scale)


@wide
def weights_divided_again(q, k, weights, *, scale):
    return layers.index_scores(q, k, weights / np.sqrt(q.dtype.type(q.shape[2])), scale=scale)


@wide
def scale_dropped(q, k, weights, *, scale):
    return layers.index_scores(q, k, weights, scale=1.0)


@wide
def softmax_over_heads(q, k, weights, *, scale):
    exponentials = np.exp(weights - weights.max(axis=-1, keepdims=True))
    return layers.index_scores(q, k, exponentials / exponentials.sum(axis=-1, keepdims=True), scale=scale)


@wide
def weights_of_the_heads_reversed(q, k, weights, *, scale):
    return layers.index_scores(q, k, weights[..., ::-1], scale=scale)


def _places(scores, options):
    orders = (options.get("q_order"), options.get("k_order"))
    return default_places("key_selection", *scores.shape, *orders)


def _chosen(scores, top_k):
    """The top_k largest of all scores, as a bias."""
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]
    bias = np.full(scores.shape, -np.inf, scores.dtype)
    np.put_along_axis(bias, best, 0, axis=-1)
    return bias[:, None]


def _visible(scores, options):
    return layers.attention_mask(*_places(scores, options), causal=options.get("causal", True))


@wide
def best_of_all_then_masked(scores, *, top_k, **options):
    visible = _visible(scores, options)
    return np.where(visible[:, None], _chosen(scores, top_k), scores.dtype.type(-np.inf))


@wide
def mask_forgotten(scores, *, top_k, **options):
    return _chosen(scores, top_k)


@wide
def hidden_scores_at_zero(scores, *, top_k, **options):
    visible = _visible(scores, options)
    chosen = _chosen(np.where(visible, scores, scores.dtype.type(0)), top_k)
    return np.where(visible[:, None], chosen, scores.dtype.type(-np.inf))


@wide
def hidden_keys_fill_the_rest(scores, *, top_k, **options):
    """Queries that see fewer than top_k keys get others as well."""
    return _chosen(np.where(_visible(scores, options), scores, scores.dtype.type(-np.inf)), top_k)


@wide
def padding_chosen(scores, *, top_k, **options):
    q_order, k_order = _places(scores, options)
    visible = np.ones(scores.shape, bool)
    if options.get("causal", True):
        visible = layers.causal_mask(q_order, k_order)
    return _chosen(np.where(visible, scores, scores.dtype.type(-np.inf)), top_k)


@wide
def columns_for_places(scores, *, top_k, causal=True, q_order=None, k_order=None):
    return layers.key_selection(scores, top_k=top_k, causal=causal)


@wide
def largest_by_size(scores, *, top_k, **options):
    return layers.key_selection(np.abs(scores), top_k=top_k, **options)


@wide
def smallest_scores(scores, *, top_k, **options):
    return layers.key_selection(-scores, top_k=top_k, **options)


@wide
def latest_keys(scores, *, top_k, causal=True, **options):
    q_order, k_order = _places(scores, options)
    if not causal:
        return layers.key_selection(scores, top_k=top_k, causal=causal, **options)
    return np.where(layers.sliding_window_mask(q_order, k_order, window=top_k) & (k_order >= 0)[:, None], 0, -np.inf)[
        :, None
    ].astype(scores.dtype)


def _one_key(difference):
    @wide
    def key_selection(scores, *, top_k, **options):
        return layers.key_selection(scores, top_k=max(top_k + difference, 1), **options)

    return key_selection


@wide
def equal_scores_all_kept(scores, *, top_k, **options):
    """Everything from the top_k-th largest score on."""
    visible = _visible(scores, options)
    shown = np.where(visible, scores, scores.dtype.type(-np.inf))
    border = np.sort(shown, axis=-1)[..., -min(top_k, scores.shape[-1]), None]
    kept = visible & (shown >= border)
    return np.where(kept, scores.dtype.type(0), scores.dtype.type(-np.inf))[:, None]


@wide
def always_causal(scores, *, top_k, causal=True, **options):
    return layers.key_selection(scores, top_k=top_k, **options)


@wide
def lowest_number_for_minus_infinity(scores, *, top_k, **options):
    selection = layers.key_selection(scores, top_k=top_k, **options)
    return np.maximum(selection, scores.dtype.type(-1e4))


# Fault -> the function, and the implementation that has it.
INDEXER_FAULTS = {
    "index products not rectified": ("index_scores", not_rectified),
    "index sum rectified": ("index_scores", sum_rectified),
    "index products rectified after their weight": ("index_scores", rectified_after_the_weight),
    "index heads averaged": ("index_scores", mean_over_heads),
    "index weights divided again": ("index_scores", weights_divided_again),
    "index scale dropped": ("index_scores", scale_dropped),
    "softmax over index weights": ("index_scores", softmax_over_heads),
    "index weights of other heads": ("index_scores", weights_of_the_heads_reversed),
    "keys selected before the mask": ("key_selection", best_of_all_then_masked),
    "keys selected without a mask": ("key_selection", mask_forgotten),
    "hidden keys at score 0": ("key_selection", hidden_scores_at_zero),
    "hidden keys fill the selection": ("key_selection", hidden_keys_fill_the_rest),
    "padding selected": ("key_selection", padding_chosen),
    "selection by columns": ("key_selection", columns_for_places),
    "selection by size": ("key_selection", largest_by_size),
    "smallest scores selected": ("key_selection", smallest_scores),
    "latest keys selected": ("key_selection", latest_keys),
    "one key too many selected": ("key_selection", _one_key(1)),
    "one key too few selected": ("key_selection", _one_key(-1)),
    "all equal scores selected": ("key_selection", equal_scores_all_kept),
    "selection always causal": ("key_selection", always_causal),
    "a low number for minus infinity": ("key_selection", lowest_number_for_minus_infinity),
}
