"""Where tokens stand: the places of queries and of stored keys, with padding on any side and storage in any order."""

from __future__ import annotations

import numpy as np

from conformance.family import Values
from refimpl.layers import token_order
from refimpl.numerics import Array

PLACES = ("plain", "left", "right", "middle", "shuffled", "empty")


def places(values: Values, batch: int, queries: int, keys: int, order: str) -> tuple[Array, Array]:
    """q_order [B, T] and k_order [B, S] of `queries` new tokens, the last of `keys` stored ones.

    plain: no padding. left, right: ragged rows. middle: padding between cache and new tokens. shuffled: the slots of a ring
    cache, in any order, one of them empty. empty: a row whose slots are all empty, its queries real.
    """
    mask = np.ones((batch, keys), np.int64)
    columns = np.arange(keys)
    ragged = np.arange(batch)[:, None] % 3 * max(1, (keys - 1) // 4)
    if order == "left":
        mask = (columns >= ragged).astype(np.int64)
    elif order == "right":
        mask = (columns < keys - ragged).astype(np.int64)
    elif order == "middle":
        first_new = keys - queries
        mask = ((columns < np.maximum(first_new - ragged, 0)) | (columns >= first_new)).astype(np.int64)
    k_order = token_order(mask)
    q_order = k_order[:, keys - queries :].copy()
    if order == "shuffled":
        k_order = np.where(k_order == 0, -1, k_order) if keys > queries else k_order
        k_order = np.stack([values.permutation(row) for row in k_order])
    elif order == "empty":
        k_order = k_order.copy()
        k_order[-1] = -1
    return q_order, k_order


PADDINGS = ("left", "right", "between", "row")


def new_places(values: Values, batch: int, length: int, padding: str, *, past: int = 0) -> Array:
    """The places [B, T] of new tokens after `past` ones of each row: what layers with a state of constant size look at.

    left, right: ragged rows. between: padding anywhere. row: anywhere, and the last row is nothing else.
    """
    columns = np.arange(length)
    ragged = (np.arange(batch)[:, None] + 1) % 3 * max(1, length // 4)
    real = values.random((batch, length)) >= 0.3
    if padding == "left":
        real = columns >= ragged
    elif padding == "right":
        real = columns < length - ragged
    elif padding == "row":
        real[-1] = False
    order = token_order(real.astype(np.int64))
    return np.where(real, order + past, -1)
