"""The ring cache in standard operators; `refimpl.layers.cache` says what it keeps."""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value


def ring_order(f: Body, order: Value, *, window: int) -> Value:
    slots = f.Range(np.asarray(0), _slots(f, order, window), np.asarray(1))
    last = f.ReduceMax(order, [1])
    # Mod takes the sign of the divisor.
    places = f.Sub(last, f.Mod(f.Sub(last, slots), window))
    return f.Where(f.GreaterOrEqual(places, 0), places, f.constant(np.asarray(-1)))


def ring_append(f: Body, new: Value, order: Value, ring: Value | None = None, *, window: int) -> Value:
    """Each slot is a row of [ring, new tokens, zero], chosen by the place that the slot holds afterwards."""
    length = f.Shape(new, start=1, end=2)
    places = f.Slice(order, f.Neg(length), [np.iinfo(np.int64).max], [1])
    entry = f.Concat(f.Shape(new, end=1), [1], f.Shape(new, start=2), axis=0)
    nothing = f.Expand(f.constant(np.asarray(0, new.dtype)), entry)
    rows = f.Concat(*([] if ring is None else [ring]), new, nothing, axis=1)
    held = [0] if ring is None else f.Shape(ring, start=1, end=2)
    # Padding is at -1 and so is an empty slot: without the -2 one would be written into the other.
    real = f.Where(f.Less(places, 0), f.constant(np.asarray(-2)), places)
    hits = f.Equal(f.Unsqueeze(ring_order(f, order, window=window), [2]), f.Unsqueeze(real, [1]))
    hits = f.cast(hits, np.dtype(np.int32))
    written = f.cast(f.ReduceMax(hits, [2], keepdims=0), np.dtype(bool))
    slots = f.Range(np.asarray(0), _slots(f, order, window), np.asarray(1))
    kept = f.Where(f.Less(slots, held), slots, f.Add(length, held))
    source = f.Where(written, f.Add(f.ArgMax(hits, axis=2, keepdims=0), held), kept)
    return f.GatherND(rows, f.Unsqueeze(source, [2]), batch_dims=1)


def _slots(f: Body, order: Value, window: int) -> Value:
    """How many slots a ring has that saw all tokens of `order`."""
    return f.Squeeze(f.Min(f.Shape(order, start=1, end=2), [window]), [0])
