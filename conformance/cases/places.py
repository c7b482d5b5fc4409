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
