"""Rollback: the cache after some of the tokens that a call was given turn out not to be there.

A cache is a value: the one from before the call still exists. Where every token has an entry of its own, those that fell
become padding, and padding takes no room. Where entries overwrite each other (the slots of a ring) or run into each other (a
recurrent state), the new cache lacks what those that fell destroyed: those that stand are computed again from the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from refimpl.blocks import StateEntry
from refimpl.model import Cache, Model
from refimpl.numerics import Array

Entries = Sequence[dict[str, StateEntry]]


def roll_back(model: Model, before: Cache, after: Cache, tokens: Array, stands: Array) -> Cache:
    """`before` continued by those of `tokens` [B, T] alone that `stands` bool [B, T] marks, without padding.

    after: the cache of the call that was given all of them. Those that stand must come first in their row, so that none has
    seen one that fell.
    """
    entries = model.blueprint.state()
    mask = np.concatenate([before.attention_mask, stands.astype(np.int64)], axis=1)
    if (mask == after.attention_mask).all():
        kept = after
    elif keeps_every_token(entries, ring=after.ring):
        kept = replace(after, attention_mask=mask)
    else:
        _, kept = model.hidden(tokens, before, attention_mask=mask)
    return without_padding(kept, entries)


def keeps_every_token(entries: Entries, *, ring: bool) -> bool:
    """Whether every token has an entry of its own in each state, for as long as the text is."""
    return all(entry.grows and not (ring and entry.window) for layer in entries for entry in layer.values())


def without_padding(cache: Cache, entries: Entries) -> Cache:
    """The same tokens in as few columns as the longest row needs, shorter ones padded on the left.

    The slots of a ring follow from the places of real tokens and stay as they are; those beyond the length go.
    """
    columns = real_columns(cache.attention_mask)
    length = columns.shape[1]
    if length == len(cache) and (columns == np.arange(length)).all():
        return cache
    states = []
    for state, layer in zip(cache.states, entries, strict=True):
        kept = {}
        for name, array in state.items():
            entry = layer[name]
            if cache.ring and entry.window:
                kept[name] = array[:, :length].copy()
            elif entry.grows:
                kept[name] = pick(array, columns)
            else:
                kept[name] = array
        states.append(kept)
    return replace(cache, states=states, attention_mask=pick(cache.attention_mask, columns))


def real_columns(mask: Array) -> Array:
    """The columns of a 0/1 mask [B, S] that hold the real tokens in their order, after as little padding as possible."""
    length = max(int(mask.sum(axis=1).max()), 1)
    return np.argsort(mask, axis=1, kind="stable")[:, mask.shape[1] - length :]


def pick(array: Array, columns: Array) -> Array:
    """Those columns [B, S'] of an array [B, S, ...]."""
    picked: Array = array[np.arange(len(array))[:, None], columns]
    return picked
