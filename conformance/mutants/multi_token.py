"""Losses, and inputs of modules for multi-token prediction, that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array

wide = computing_in(np.float32)


@wide
def halves_exchanged(embedding: Array, hidden: Array, weight: Array) -> Array:
    return layers.multi_token_input(hidden, embedding, weight)


@wide
def hidden_of_the_row_before(embedding: Array, hidden: Array, weight: Array) -> Array:
    return layers.multi_token_input(embedding, np.roll(hidden, 1, axis=0), weight)


def _losses(logits: Array, targets: Array, ignore_index: int) -> Any:
    counted = targets != ignore_index
    largest = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
    chosen = np.take_along_axis(logits, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(counted, total - chosen, 0), counted


@wide
def shifted_twice(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    return layers.cross_entropy(logits[:, :-1], targets[:, 1:], ignore_index=ignore_index)


@wide
def ignored_in_the_divisor(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    losses, _ = _losses(logits, targets, ignore_index)
    return np.asarray(losses.mean())


@wide
def ignore_index_fixed(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    return layers.cross_entropy(logits, targets)


@wide
def mean_of_the_rows(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    losses, counted = _losses(logits, targets, ignore_index)
    return np.asarray((losses.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)).mean())


@wide
def maximum_left_in(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    _, counted = _losses(logits, targets, ignore_index)
    chosen = np.take_along_axis(logits, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
    return np.asarray(np.where(counted, losses, 0).sum() / max(counted.sum(), 1))


@wide
def no_number_where_none_is_counted(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    losses, counted = _losses(logits, targets, ignore_index)
    return np.asarray(losses.sum() / counted.sum())


def _by_depth(
    logits: Array,
    labels: Array,
    ignore_index: int,
    *,
    divisor: Array | None = None,
    further: Callable[..., Any] = lambda depth: depth,
) -> list[Any]:
    length, found = labels.shape[1], []
    for depth, each in enumerate(logits):
        places = max(length - 1 - further(depth), 0)
        losses, counted = _losses(each[:, :places], labels[:, length - places :], ignore_index)
        found.append(losses.sum() / max(counted.sum() if divisor is None else divisor, 1))
    return found


def _total(losses: list[Any], weight: float, *, divide: bool = True) -> Array:
    modules = losses[1:]
    number = max(len(modules), 1) if divide else 1
    return np.asarray(losses[0] + weight * sum(modules) / number)


@wide
def divisor_before_the_shift(logits: Array, labels: Array, *, weight: float, ignore_index: int = -100) -> Array:
    return _total(_by_depth(logits, labels, ignore_index, divisor=(labels != ignore_index).sum()), weight)


@wide
def modules_summed(logits: Array, labels: Array, *, weight: float, ignore_index: int = -100) -> Array:
    return _total(_by_depth(logits, labels, ignore_index), weight, divide=False)


@wide
def every_depth_shifted_alike(logits: Array, labels: Array, *, weight: float, ignore_index: int = -100) -> Array:
    return _total(_by_depth(logits, labels, ignore_index, further=lambda depth: 0), weight)


@wide
def weight_on_everything(logits: Array, labels: Array, *, weight: float, ignore_index: int = -100) -> Array:
    losses = _by_depth(logits, labels, ignore_index)
    return np.asarray(weight * (losses[0] + sum(losses[1:]) / max(len(losses) - 1, 1)))


@wide
def main_model_among_the_averaged(logits: Array, labels: Array, *, weight: float, ignore_index: int = -100) -> Array:
    losses = _by_depth(logits, labels, ignore_index)
    return np.asarray(losses[0] + weight * sum(losses[1:]) / len(losses))


INPUT, LOSS, LOSSES = "multi_token_input", "cross_entropy", "multi_token_loss"
MUTANTS = (
    layer("mtp-concat-order", INPUT, halves_exchanged, "The hidden state comes before the embedding."),
    layer("hidden-state-of-another-row", INPUT, hidden_of_the_row_before, "The hidden state is that of another row."),
    layer("loss-double-shift", LOSS, shifted_twice, "Targets that are shifted already are shifted again."),
    layer("ignored-targets-in-the-divisor", LOSS, ignored_in_the_divisor, "Ignored targets are counted."),
    layer("ignore-index-ignored", LOSS, ignore_index_fixed, "The number that marks ignored targets is another one."),
    layer("mean-of-the-rows-means", LOSS, mean_of_the_rows, "The loss is the mean of the rows' means."),
    layer("maximum-left-in", LOSS, maximum_left_in, "Exponentials are summed without taking out the maximum."),
    layer("nan-where-none-is-counted", LOSS, no_number_where_none_is_counted, "Without a target that counts the loss is NaN."),
    layer(
        "loss-denominator-counts-unshifted-labels",
        LOSSES,
        divisor_before_the_shift,
        "The divisor counts targets before they are shifted.",
    ),
    layer("modules-summed", LOSSES, modules_summed, "The modules' losses are summed and not averaged."),
    layer("every-depth-shifted-alike", LOSSES, every_depth_shifted_alike, "Every module is held to the next token."),
    layer("weight-on-everything", LOSSES, weight_on_everything, "The weight multiplies the model's own loss as well."),
    layer("model-among-the-averaged", LOSSES, main_model_among_the_averaged, "The average counts the model among the modules."),
)
