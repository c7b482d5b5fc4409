"""Rows without their padding: for operations that know none, or know it on the right alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from refimpl.numerics import Array

Recurrence = Callable[[Sequence[Array], Array | None], tuple[Array, Array]]


def row_by_row(run: Recurrence, along: Sequence[Array], state: Array | None, order: Array | None) -> tuple[Array, Array]:
    """The result and the state of run(arrays [B, T, ...], state), given the real tokens of one row at a time.

    Without padding all rows are one call. Padding results in zeros; a row that has no real token keeps its state.
    """
    if order is None or (order >= 0).all():
        return run(along, state)
    rows = [
        run([array[row][order[row] >= 0][None] for array in along], None if state is None else state[row : row + 1])
        if (order[row] >= 0).any()
        else None
        for row in range(len(order))
    ]
    known = next((each for each in rows if each is not None), None)
    if known is None:
        raise NotImplementedError("all of the tokens are padding")
    y = np.zeros((*order.shape, *known[0].shape[2:]), known[0].dtype)
    states = np.zeros((len(order), *known[1].shape[1:]), known[1].dtype) if state is None else state.astype(known[1].dtype)
    for row, each in enumerate(rows):
        if each is not None:
            y[row, order[row] >= 0] = each[0][0]
            states[row] = each[1][0]
    return y, states


def consecutive(q_order: Array | None, k_order: Array | None, row: int) -> tuple[Array, Array] | None:
    """The columns of a row's real queries and of its real keys, by place; None where there are gaps or keys after the queries.

    Then the queries are the last of the keys, which is all that a cache without places can express.
    """
    assert q_order is not None
    assert k_order is not None
    queries, keys = (np.argsort(order[row], kind="stable")[np.sum(order[row] < 0) :] for order in (q_order, k_order))
    places = k_order[row, keys]
    if not np.array_equal(places, np.arange(len(keys))):
        return None
    expected = np.arange(len(keys) - len(queries), len(keys))
    return (queries, keys) if np.array_equal(q_order[row, queries], expected) else None
