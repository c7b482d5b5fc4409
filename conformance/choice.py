"""Choices: which experts a router sends a token to, which keys an indexer keeps. A choice has no budget, it is right or wrong,
where scores decide it.

equal scores    any of them may be chosen. The truth is that of scores among which the candidate's own choice is ahead by
                an amount that only the truth's wide format can see: where scores differ it changes nothing.
close scores    are not asked for: inputs are drawn until the choice stands though every score moves against it by
                many roundings of the tested dtype (`stands`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.numerics import Array

# In units in the last place of the wide format, for each rank of the choice.
LEAD = 16
# In place of -inf where that is chosen: next to no weight, which only the truth's wide format can tell from none.
HIDDEN = -100.0
# By how many roundings of the tested dtype a score may be off: several times what a correct router is.
ROUNDINGS = 8
BATCH, ATTEMPTS = 256, 200


def favouring(scores: Array, chosen: Any) -> Array:
    """Wide scores [..., E] with those at `chosen` [..., A] ahead of their equals, the first the farthest.

    Unchanged where `chosen` is no choice at all.
    """
    experts = scores.shape[-1]
    if chosen.ndim != scores.ndim or chosen.shape[:-1] != scores.shape[:-1] or not chosen.size:
        return scores
    if chosen.min() < 0 or chosen.max() >= experts:
        return scores
    rank = np.zeros(scores.shape, scores.dtype)
    np.put_along_axis(rank, chosen.astype(np.int64), np.arange(chosen.shape[-1], 0, -1, dtype=scores.dtype), axis=-1)
    shown = np.where(np.isfinite(scores), scores, HIDDEN - (experts - rank))
    lifted = shown + np.maximum(np.abs(shown), 1) * rank * LEAD * np.finfo(scores.dtype).eps
    return np.where(rank > 0, lifted, scores)


def favouring_kept(scores: Array, selection: Any) -> Array:
    """Wide scores [B, T, S] with those of the keys that a selection [B, 1, T, S] keeps ahead of their equals."""
    if selection.shape != (scores.shape[0], 1, *scores.shape[1:]):
        return scores
    lead = np.maximum(np.abs(scores), 1) * LEAD * np.finfo(scores.dtype).eps
    return np.where(selection[:, 0] == 0, scores + lead, scores)


def stands(choose: Callable[[Array], Array], scores: Array, roundoff: float) -> Array:
    """Of which rows of scores [N, E] the indices choose(scores) [N, A] stand, order included: bool [N].

    Scores move by `ROUNDINGS`: those left out up; those chosen down at every other rank and up between, and the reverse.
    """
    chosen = choose(scores)
    sizes = np.where(np.isfinite(scores), np.abs(scores), 0)
    step = ROUNDINGS * roundoff * np.maximum(1, np.max(sizes, axis=-1, keepdims=True))
    result = np.ones(len(scores), bool)
    for first in (-1, 1):
        direction = np.ones(scores.shape)
        np.put_along_axis(direction, chosen, first * (-1.0) ** np.arange(chosen.shape[-1]), axis=-1)
        result &= (choose(scores + step * direction) == chosen).all(axis=-1)
    return result


def border_stands(scores: Array, top_k: int, roundoff: float) -> Array:
    """Of which rows of scores [..., S], -inf where hidden, the set of the top_k largest stands: bool [...].

    The border of the set is as wide as two scores that move by `ROUNDINGS` towards each other.
    """
    if scores.shape[-1] <= top_k:
        return np.ones(scores.shape[:-1], bool)
    sizes = np.where(np.isfinite(scores), np.abs(scores), 0).max(axis=-1)
    ordered = np.sort(scores, axis=-1)
    last, next_one = ordered[..., -top_k], ordered[..., -top_k - 1]
    return (next_one == -np.inf) | (last - next_one > 2 * ROUNDINGS * roundoff * np.maximum(1, sizes))


def drawn_until(keep: Callable[[Array], Array], draw: Callable[[int], Array], count: int) -> Array:
    """`count` rows of those that draw(n) makes and keep(rows) is true for. ValueError when there are hardly any."""
    found = draw(0)
    for _ in range(ATTEMPTS):
        if len(found) >= count:
            return found[:count]
        rows = draw(BATCH)
        found = np.concatenate([found, rows[keep(rows)]])
    raise ValueError(f"{len(found)} of {ATTEMPTS * BATCH} drawn tokens have scores that decide, but {count} are needed")
