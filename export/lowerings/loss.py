"""Losses in standard operators; `refimpl.layers.loss` says what each computes."""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value
from refimpl.layers.loss import IGNORED

INT64 = np.dtype(np.int64)


def cross_entropy(f: Body, logits: Value, targets: Value, *, ignore_index: int = IGNORED) -> Value:
    losses, counted = _losses(f, f.widen(logits), f.cast(targets, INT64), ignore_index)
    return f.cast(_mean(f, losses, counted, axes=[0, 1]), logits.dtype)


def multi_token_loss(f: Body, logits: Value, labels: Value, *, weight: float, ignore_index: int = IGNORED) -> Value:
    zero, one = np.asarray(0), np.asarray(1)
    depths, length = (f.Squeeze(f.Shape(logits, start=axis, end=axis + 1), [0]) for axis in (0, 2))
    places = f.Add(f.Unsqueeze(f.Range(one, f.Add(depths, one), one), [1]), f.Range(zero, length, one))
    inside = f.Less(places, length)
    shifted = f.Gather(f.cast(labels, INT64), f.Where(inside, places, f.constant(zero)), axis=1)
    by_depth = f.Transpose(shifted, perm=[1, 0, 2])
    targets = f.Where(f.Unsqueeze(inside, [1]), by_depth, f.constant(np.asarray(ignore_index)))
    losses, counted = _losses(f, f.widen(logits), targets, ignore_index)
    means = _mean(f, losses, counted, axes=[1, 2])
    main, modules = f.Slice(means, [0], [1]), f.Slice(means, [1], [np.iinfo(np.int64).max])
    number = f.cast(f.Max(f.Sub(depths, one), f.constant(one)), means.dtype)
    further = f.Div(f.ReduceSum(modules, [0], keepdims=0), number)
    return f.cast(f.Add(f.Squeeze(main, [0]), f.Mul(further, weight)), logits.dtype)


def _losses(f: Body, logits: Value, targets: Value, ignore_index: int) -> tuple[Value, Value]:
    """The loss of each target, 0 where it is ignored, and which are counted."""
    counted = f.Not(f.Equal(targets, ignore_index))
    largest = f.ReduceMax(logits, [-1])
    total = f.ReduceSum(f.Exp(f.Sub(logits, largest)), [-1])
    chosen = f.Unsqueeze(f.Where(counted, targets, f.constant(np.asarray(0))), [-1])
    chosen_logits = f.GatherElements(logits, chosen, axis=len(logits.shape) - 1)
    losses = f.Squeeze(f.Add(f.Log(total), f.Sub(largest, chosen_logits)), [-1])
    return f.Where(counted, losses, f.constant(np.asarray(0, logits.dtype))), counted


def _mean(f: Body, losses: Value, counted: Value, *, axes: list[int]) -> Value:
    count = f.Max(f.ReduceSum(f.cast(counted, losses.dtype), axes, keepdims=0), f.constant(np.asarray(1, losses.dtype)))
    mean: Value = f.Div(f.ReduceSum(losses, axes, keepdims=0), count)
    return mean
