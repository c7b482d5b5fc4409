"""Rules of acceptance of speculative decoding that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.numerics import Array

wide = computing_in(np.float32)


def verification(
    accepts: Callable[..., Any] | None = None, following: Callable[..., Any] | None = None, contiguous: bool = True
) -> Function:
    """`speculative_accept` of which the rule of acceptance or the distribution of the next token is another.

    accepts(p, q, x, u): bool [B, T] of all places. following(target, draft, n): [B, V], q of no place T is 0.
    """

    def speculative_accept(target: Array, draft: Array, drafts: Array, uniforms: Array) -> Any:
        stands = (accepts or _rule)(target[:, :-1], draft, drafts, uniforms)
        counted = np.logical_and.accumulate(stands, axis=1) if contiguous else stands
        accepted = counted.sum(axis=1, dtype=np.int64)
        padded = np.concatenate([draft, np.zeros_like(target[:, :1])], axis=1)
        return accepted, (following or _residual)(target, padded, accepted)

    return speculative_accept


def _at(probabilities: Array, tokens: Array) -> Array:
    return np.take_along_axis(probabilities, tokens[..., None], axis=-1)[..., 0]


def _row(probabilities: Array, places: Array) -> Array:
    places = np.clip(places, 0, probabilities.shape[1] - 1)
    return np.take_along_axis(probabilities, places[:, None, None], axis=1)[:, 0]


def _rule(p: Array, q: Array, x: Array, u: Array) -> Array:
    return u * _at(q, x) < _at(p, x)


def _normalised(weights: Array, fallback: Array) -> Array:
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), fallback)


def _residual(target: Array, draft: Array, n: Array) -> Array:
    p = _row(target, n)
    return np.where((n == target.shape[1] - 1)[:, None], p, _normalised(np.maximum(p - _row(draft, n), 0), p))


def _equals_a_sample(p: Array, q: Array, x: Array, u: Array) -> Array:
    return layers.sample_token(p, u) == x


def _over_the_largest(p: Array, q: Array, x: Array, u: Array) -> Array:
    return u * p.max(axis=-1) < _at(p, x)


def _never_where_excluded(p: Array, q: Array, x: Array, u: Array) -> Array:
    return _rule(p, q, x, u) & (_at(q, x) > 0)


def _at_most(p: Array, q: Array, x: Array, u: Array) -> Array:
    return u * _at(q, x) <= _at(p, x)


def _always_likelier(p: Array, q: Array, x: Array, u: Array) -> Array:
    return _at(p, x) >= _at(q, x)


def _raw_residual(target: Array, draft: Array, n: Array) -> Array:
    return np.maximum(_row(target, n) - _row(draft, n), 0)


def _target_itself(target: Array, draft: Array, n: Array) -> Array:
    return _row(target, n)


def _distance(target: Array, draft: Array, n: Array) -> Array:
    p = _row(target, n)
    return _normalised(np.abs(p - _row(draft, n)), p)


def _one_place_late(target: Array, draft: Array, n: Array) -> Array:
    """After a draft that falls, the distribution of the place after it."""
    p = _row(target, n + 1)
    return np.where((n >= target.shape[1] - 1)[:, None], p, _normalised(np.maximum(p - _row(draft, n), 0), p))


def _bonus_one_place_early(target: Array, draft: Array, n: Array) -> Array:
    """Where all drafts stand, the distribution of the last of them."""
    last = target.shape[1] - 1
    return np.where((n == last)[:, None], _row(target, np.full(n.shape, max(last - 1, 0))), _residual(target, draft, n))


# Those that make another distribution whatever the dice; they take arrays of any format.
RULES = {
    "spec-accept-by-equality-when-sampling": verification(_equals_a_sample, _target_itself),
    "spec-accept-ratio-wrong-denominator": verification(_over_the_largest),
    "accepted-where-p-is-not-less": verification(_always_likelier),
    "residual-not-renormalised": verification(following=_raw_residual),
    "target-in-place-of-the-residual": verification(following=_target_itself),
    "distance-in-place-of-the-residual": verification(following=_distance),
    "next-token-one-place-late": verification(following=_one_place_late),
    "bonus-one-place-early": verification(following=_bonus_one_place_early),
    "drafts-counted-beyond-the-first-that-falls": verification(contiguous=False),
}
SAYS = {
    "spec-accept-by-equality-when-sampling": "A draft stands only if it equals a token drawn from the target.",
    "spec-accept-ratio-wrong-denominator": "The target's probability is divided by its largest and not by the draft's.",
    "accepted-where-p-is-not-less": "A draft stands where the target finds it as likely, whatever the dice.",
    "residual-not-renormalised": "What is left of the target does not sum to 1.",
    "target-in-place-of-the-residual": "After a draft that falls the target itself is drawn from.",
    "distance-in-place-of-the-residual": "The residual counts where the draft is likelier as well.",
    "next-token-one-place-late": "After a draft that falls the distribution of the next place is drawn from.",
    "bonus-one-place-early": "Where all drafts stand the distribution of the last of them is drawn from again.",
    "drafts-counted-beyond-the-first-that-falls": "Drafts count that follow one which has fallen.",
}
ACCEPT = "speculative_accept"
MUTANTS = (
    *(layer(id, ACCEPT, wide(rule), SAYS[id]) for id, rule in RULES.items()),
    layer(
        "impossible-draft-accepted-at-u-0", ACCEPT, wide(verification(_at_most)), "A draft of p = 0 stands when the die is 0."
    ),
    layer("draft-of-q-0-rejected", ACCEPT, wide(verification(_never_where_excluded)), "A draft of q = 0 falls always."),
)
