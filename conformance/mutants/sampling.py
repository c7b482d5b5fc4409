"""Distributions to sample from that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.numerics import Array

wide = computing_in(np.float32)


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _kept(logits: Array, kept: Array) -> Array:
    return _softmax(np.where(kept, logits, -np.inf))


def _filtered(change: Callable[..., Any]) -> Function:
    """The specification on other logits or options; temperature 0 is left alone."""

    @wide
    def token_distribution(logits: Array, *, temperature: float = 1.0, **filters: Any) -> Array:
        if temperature == 0:
            return layers.token_distribution(logits, temperature=0, **filters)
        return change(logits, temperature, filters)

    return token_distribution


def _temperature_last(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    return _kept(logits / logits.dtype.type(temperature), layers.token_distribution(logits, **filters) > 0)


def _temperature_multiplied(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    return layers.token_distribution(logits, temperature=1 / temperature, **filters)


def _top_p_of_all(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    """Every filter looks at the distribution before all filters."""
    every = [layers.token_distribution(logits, temperature=temperature, **{name: value}) > 0 for name, value in filters.items()]
    return _kept(logits / logits.dtype.type(temperature), np.all([np.ones(logits.shape, bool), *every], axis=0))


def _border_dropped(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    """The token that reaches top_p goes, unless it is the likeliest."""
    top_p = filters.pop("top_p", None)
    p = layers.token_distribution(logits, temperature=temperature, **filters)
    if top_p is None or top_p == 1:
        return p
    above = np.where(p[..., None, :] >= p[..., :, None], p[..., None, :], 0).sum(axis=-1)
    return _kept(logits / logits.dtype.type(temperature), (p > 0) & ((above <= top_p) | (p == p.max(axis=-1, keepdims=True))))


def _exactly_k(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    """Of equals on the border of top_k those of lower index stay."""
    top_k = filters.pop("top_k", None)
    if top_k is not None:
        rank = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1)
        logits = np.where(rank < top_k, logits, -np.inf)
    return layers.token_distribution(logits, temperature=temperature, **filters)


def _absolute_min_p(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    min_p = filters.pop("min_p", None)
    p = layers.token_distribution(logits, temperature=temperature, **filters)
    if min_p is None:
        return p
    return _kept(logits / logits.dtype.type(temperature), (p > 0) & ((p >= min_p) | (p == p.max(axis=-1, keepdims=True))))


def _not_renormalised(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
    kept = layers.token_distribution(logits, temperature=temperature, **filters) > 0
    return np.where(kept, layers.token_distribution(logits, temperature=temperature), 0)


def _without(name: str) -> Function:
    def change(logits: Array, temperature: float, filters: dict[str, Any]) -> Array:
        return layers.token_distribution(logits, temperature=temperature, **{k: v for k, v in filters.items() if k != name})

    return _filtered(change)


@wide
def equals_share(logits: Array, *, temperature: float = 1.0, **filters: Any) -> Array:
    if temperature > 0:
        return layers.token_distribution(logits, temperature=temperature, **filters)
    best = (logits == logits.max(axis=-1, keepdims=True)).astype(logits.dtype)
    return best / best.sum(axis=-1, keepdims=True)


@wide
def last_of_equals(logits: Array, *, temperature: float = 1.0, **filters: Any) -> Array:
    if temperature > 0:
        return layers.token_distribution(logits, temperature=temperature, **filters)
    return layers.token_distribution(logits[..., ::-1], temperature=0)[..., ::-1].copy()


DISTRIBUTION = "token_distribution"
MUTANTS = (
    layer(
        "temperature-after-filters",
        DISTRIBUTION,
        _filtered(_temperature_last),
        "Filters look at the distribution before the temperature.",
    ),
    layer(
        "temperature-multiplied", DISTRIBUTION, _filtered(_temperature_multiplied), "Logits are multiplied by the temperature."
    ),
    layer(
        "topk-before-topp-unnormalised",
        DISTRIBUTION,
        _filtered(_top_p_of_all),
        "Every filter looks at the distribution before all filters.",
    ),
    layer(
        "token-that-reaches-top-p-dropped", DISTRIBUTION, _filtered(_border_dropped), "The token that reaches top_p is dropped."
    ),
    layer(
        "exactly-top-k-tokens", DISTRIBUTION, _filtered(_exactly_k), "Of tokens that tie with the last one some are dropped."
    ),
    layer(
        "min-p-not-of-the-likeliest",
        DISTRIBUTION,
        _filtered(_absolute_min_p),
        "min_p is a probability and no share of the largest.",
    ),
    layer(
        "filtered-probabilities-not-renormalised", DISTRIBUTION, _filtered(_not_renormalised), "What is left does not sum to 1."
    ),
    *(
        layer(f"{name.replace('_', '-')}-ignored", DISTRIBUTION, _without(name), f"{name} is ignored.")
        for name in ("top_k", "top_p", "min_p")
    ),
    layer("greedy-tokens-share", DISTRIBUTION, equals_share, "At temperature 0 tokens that tie share."),
    layer("last-of-greedy-equals", DISTRIBUTION, last_of_equals, "At temperature 0 the last of tokens that tie is taken."),
)
