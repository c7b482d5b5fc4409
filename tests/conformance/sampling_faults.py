"""Sampling that is wrong as real ones have been."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from tests.conformance.computing import computing_in

wide = computing_in(np.float32)


def _softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _kept(logits, kept):
    return _softmax(np.where(kept, logits, -np.inf))


def _filtered(change):
    """The specification on other logits or options; temperature 0 is left alone."""

    @wide
    def token_distribution(logits, *, temperature=1.0, **filters):
        if temperature == 0:
            return layers.token_distribution(logits, temperature=0, **filters)
        return change(logits, temperature, filters)

    return token_distribution


def _temperature_last(logits, temperature, filters):
    return _kept(logits / logits.dtype.type(temperature), layers.token_distribution(logits, **filters) > 0)


def _temperature_multiplied(logits, temperature, filters):
    return layers.token_distribution(logits, temperature=1 / temperature, **filters)


def _top_p_of_all(logits, temperature, filters):
    """Every filter looks at the distribution before all filters."""
    every = [layers.token_distribution(logits, temperature=temperature, **{name: value}) > 0 for name, value in filters.items()]
    return _kept(logits / logits.dtype.type(temperature), np.all([np.ones(logits.shape, bool), *every], axis=0))


def _border_dropped(logits, temperature, filters):
    """The token that reaches top_p goes, unless it is the likeliest."""
    top_p = filters.pop("top_p", None)
    p = layers.token_distribution(logits, temperature=temperature, **filters)
    if top_p is None or top_p == 1:
        return p
    above = np.where(p[..., None, :] >= p[..., :, None], p[..., None, :], 0).sum(axis=-1)
    return _kept(logits / logits.dtype.type(temperature), (p > 0) & ((above <= top_p) | (p == p.max(axis=-1, keepdims=True))))


def _exactly_k(logits, temperature, filters):
    """Of equals on the border of top_k those of lower index stay."""
    top_k = filters.pop("top_k", None)
    if top_k is not None:
        rank = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1)
        logits = np.where(rank < top_k, logits, -np.inf)
    return layers.token_distribution(logits, temperature=temperature, **filters)


def _absolute_min_p(logits, temperature, filters):
    min_p = filters.pop("min_p", None)
    p = layers.token_distribution(logits, temperature=temperature, **filters)
    if min_p is None:
        return p
    return _kept(logits / logits.dtype.type(temperature), (p > 0) & ((p >= min_p) | (p == p.max(axis=-1, keepdims=True))))


def _not_renormalised(logits, temperature, filters):
    kept = layers.token_distribution(logits, temperature=temperature, **filters) > 0
    return np.where(kept, layers.token_distribution(logits, temperature=temperature), 0)


def _without(name):
    def change(logits, temperature, filters):
        return layers.token_distribution(logits, temperature=temperature, **{k: v for k, v in filters.items() if k != name})

    return _filtered(change)


@wide
def equals_share(logits, *, temperature=1.0, **filters):
    if temperature > 0:
        return layers.token_distribution(logits, temperature=temperature, **filters)
    best = (logits == logits.max(axis=-1, keepdims=True)).astype(logits.dtype)
    return best / best.sum(axis=-1, keepdims=True)


@wide
def last_of_equals(logits, *, temperature=1.0, **filters):
    if temperature > 0:
        return layers.token_distribution(logits, temperature=temperature, **filters)
    return layers.token_distribution(logits[..., ::-1], temperature=0)[..., ::-1].copy()


def verification(accepts=None, following=None, contiguous=True):
    """`speculative_accept` of which the rule of acceptance or the distribution of the next token is another.

    accepts(p, q, x, u): bool [B, T] of all places. following(target, draft, n): [B, V], q of no place T is 0.
    """

    def speculative_accept(target, draft, drafts, uniforms):
        stands = (accepts or _rule)(target[:, :-1], draft, drafts, uniforms)
        counted = np.logical_and.accumulate(stands, axis=1) if contiguous else stands
        accepted = counted.sum(axis=1, dtype=np.int64)
        padded = np.concatenate([draft, np.zeros_like(target[:, :1])], axis=1)
        return accepted, (following or _residual)(target, padded, accepted)

    return speculative_accept


def _at(probabilities, tokens):
    return np.take_along_axis(probabilities, tokens[..., None], axis=-1)[..., 0]


def _row(probabilities, places):
    places = np.clip(places, 0, probabilities.shape[1] - 1)
    return np.take_along_axis(probabilities, places[:, None, None], axis=1)[:, 0]


def _rule(p, q, x, u):
    return u * _at(q, x) < _at(p, x)


def _normalised(weights, fallback):
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), fallback)


def _residual(target, draft, n):
    p = _row(target, n)
    return np.where((n == target.shape[1] - 1)[:, None], p, _normalised(np.maximum(p - _row(draft, n), 0), p))


def _equals_a_sample(p, q, x, u):
    return layers.sample_token(p, u) == x


def _over_the_largest(p, q, x, u):
    return u * p.max(axis=-1) < _at(p, x)


def _never_where_excluded(p, q, x, u):
    return _rule(p, q, x, u) & (_at(q, x) > 0)


def _at_most(p, q, x, u):
    return u * _at(q, x) <= _at(p, x)


def _always_likelier(p, q, x, u):
    return _at(p, x) >= _at(q, x)


def _raw_residual(target, draft, n):
    return np.maximum(_row(target, n) - _row(draft, n), 0)


def _target_itself(target, draft, n):
    return _row(target, n)


def _distance(target, draft, n):
    p = _row(target, n)
    return _normalised(np.abs(p - _row(draft, n)), p)


def _one_place_late(target, draft, n):
    """After a draft that falls, the distribution of the place after it."""
    p = _row(target, n + 1)
    return np.where((n >= target.shape[1] - 1)[:, None], p, _normalised(np.maximum(p - _row(draft, n), 0), p))


def _bonus_one_place_early(target, draft, n):
    """Where all drafts stand, the distribution of the last of them."""
    last = target.shape[1] - 1
    return np.where((n == last)[:, None], _row(target, np.full(n.shape, max(last - 1, 0))), _residual(target, draft, n))


VERIFICATION_FAULTS = {
    "spec-accept-by-equality-when-sampling": verification(_equals_a_sample, _target_itself),
    "spec-accept-ratio-wrong-denominator": verification(_over_the_largest),
    "accepted where p >= q": verification(_always_likelier),
    "residual not renormalised": verification(following=_raw_residual),
    "target in place of the residual": verification(following=_target_itself),
    "distance in place of the residual": verification(following=_distance),
    "next token one place late": verification(following=_one_place_late),
    "bonus one place early": verification(following=_bonus_one_place_early),
    "drafts counted beyond the first that falls": verification(contiguous=False),
}
# Fault -> the function, and the implementation that has it. An id of the catalogue of bugs stands where there is one.
SAMPLING_FAULTS = {
    "temperature-after-filters": ("token_distribution", _filtered(_temperature_last)),
    "temperature multiplied": ("token_distribution", _filtered(_temperature_multiplied)),
    "topk-before-topp-unnormalised": ("token_distribution", _filtered(_top_p_of_all)),
    "token that reaches top_p dropped": ("token_distribution", _filtered(_border_dropped)),
    "exactly top_k tokens": ("token_distribution", _filtered(_exactly_k)),
    "min_p not of the likeliest": ("token_distribution", _filtered(_absolute_min_p)),
    "filtered probabilities not renormalised": ("token_distribution", _filtered(_not_renormalised)),
    **{f"{name} ignored": ("token_distribution", _without(name)) for name in ("top_k", "top_p", "min_p")},
    "greedy tokens share": ("token_distribution", equals_share),
    "last of greedy equals": ("token_distribution", last_of_equals),
    **{label: ("speculative_accept", wide(function)) for label, function in VERIFICATION_FAULTS.items()},
    "impossible draft accepted at u = 0": ("speculative_accept", wide(verification(_at_most))),
    "draft of q = 0 rejected": ("speculative_accept", wide(verification(_never_where_excluded))),
}
