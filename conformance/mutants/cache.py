"""Ring caches that are wrong."""

from __future__ import annotations

import numpy as np

from conformance.family import INTEGERS
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array


def ring_of_columns(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    columns = np.tile(np.arange(order.shape[1]), (len(order), 1))
    return layers.ring_append(new, columns, ring, window=window)


def ring_that_rolls(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    """The last tokens in their order."""
    return (new if ring is None else np.concatenate([ring, new], axis=1))[:, -window:]


def ring_written_backwards(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    """Of a piece longer than the window the first tokens stay."""
    result = layers.ring_append(new, order, ring, window=window)
    past = order.shape[1] - new.shape[1]
    for token in reversed(range(new.shape[1])):
        for row in range(len(new)):
            if order[row, past + token] >= 0:
                result[row, order[row, past + token] % window] = new[row, token]
    return result


def ring_one_slot_further(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    result = layers.ring_append(new, order, ring, window=window)
    return np.roll(result, 1, axis=1) if result.shape[1] == window else result


def ring_with_padding(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    """Padding is written into the last slot."""
    result = layers.ring_append(new, order, ring, window=window)
    rows, tokens = np.nonzero(order[:, order.shape[1] - new.shape[1] :] < 0)
    result[rows, -1] = new[rows, tokens]
    return result


def order_of_columns(order: Array, *, window: int) -> Array:
    return layers.ring_order(np.tile(np.arange(order.shape[1]), (len(order), 1)), window=window)


def order_of_a_roll(order: Array, *, window: int) -> Array:
    return order[:, -window:].astype(np.int64)


def order_without_empty_slots(order: Array, *, window: int) -> Array:
    return np.maximum(layers.ring_order(order, window=window), 0)


MUTANTS = (
    layer("ring-of-columns", "ring_append", ring_of_columns, "A token's slot follows from its column, padding included."),
    layer("ring-that-rolls", "ring_append", ring_that_rolls, "The last tokens are kept in their order, oldest first."),
    layer(
        "ring-cache-chunked-prefill-corrupt",
        "ring_append",
        ring_written_backwards,
        "Of a piece longer than the window the first tokens stay in the slots.",
    ),
    layer("ring-one-slot-further", "ring_append", ring_one_slot_further, "Every token lies one slot further."),
    layer("padding-in-the-ring", "ring_append", ring_with_padding, "Padding is written over a token."),
    layer("order-of-columns", "ring_order", order_of_columns, "Slots are numbered by columns.", dtypes=INTEGERS),
    layer("order-of-a-roll", "ring_order", order_of_a_roll, "Slots are numbered as those of a roll.", dtypes=INTEGERS),
    layer(
        "empty-slots-at-place-0",
        "ring_order",
        order_without_empty_slots,
        "Slots that hold nothing yet count as the first token.",
        dtypes=INTEGERS,
    ),
)
