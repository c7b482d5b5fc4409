"""Faulty losses and inputs of modules for multi-token prediction."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from tests.conformance.computing import computing_in

wide = computing_in(np.float32)


@wide
def halves_exchanged(embedding, hidden, weight):
    return layers.multi_token_input(hidden, embedding, weight)


@wide
def hidden_of_the_row_before(embedding, hidden, weight):
    return layers.multi_token_input(embedding, np.roll(hidden, 1, axis=0), weight)


def _losses(logits, targets, ignore_index):
    counted = targets != ignore_index
    largest = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
    chosen = np.take_along_axis(logits, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(counted, total - chosen, 0), counted


@wide
def shifted_twice(logits, targets, *, ignore_index=-100):
    return layers.cross_entropy(logits[:, :-1], targets[:, 1:], ignore_index=ignore_index)


@wide
def ignored_in_the_divisor(logits, targets, *, ignore_index=-100):
    losses, _ = _losses(logits, targets, ignore_index)
    return np.asarray(losses.mean())


@wide
def ignore_index_fixed(logits, targets, *, ignore_index=-100):
    return layers.cross_entropy(logits, targets)


@wide
def mean_of_the_rows(logits, targets, *, ignore_index=-100):
    losses, counted = _losses(logits, targets, ignore_index)
    return np.asarray((losses.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)).mean())


@wide
def maximum_left_in(logits, targets, *, ignore_index=-100):
    _, counted = _losses(logits, targets, ignore_index)
    chosen = np.take_along_axis(logits, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
    return np.asarray(np.where(counted, losses, 0).sum() / max(counted.sum(), 1))


@wide
def no_number_where_none_is_counted(logits, targets, *, ignore_index=-100):
    losses, counted = _losses(logits, targets, ignore_index)
    return np.asarray(losses.sum() / counted.sum())


def _by_depth(logits, labels, ignore_index, *, divisor=None, further=lambda depth: depth):
    length, found = labels.shape[1], []
    for depth, each in enumerate(logits):
        places = max(length - 1 - further(depth), 0)
        losses, counted = _losses(each[:, :places], labels[:, length - places :], ignore_index)
        found.append(losses.sum() / max(counted.sum() if divisor is None else divisor, 1))
    return found


def _total(losses, weight, *, divide=True):
    modules = losses[1:]
    number = max(len(modules), 1) if divide else 1
    return np.asarray(losses[0] + weight * sum(modules) / number)


@wide
def divisor_before_the_shift(logits, labels, *, weight, ignore_index=-100):
    return _total(_by_depth(logits, labels, ignore_index, divisor=(labels != ignore_index).sum()), weight)


@wide
def modules_summed(logits, labels, *, weight, ignore_index=-100):
    return _total(_by_depth(logits, labels, ignore_index), weight, divide=False)


@wide
def every_depth_shifted_alike(logits, labels, *, weight, ignore_index=-100):
    return _total(_by_depth(logits, labels, ignore_index, further=lambda depth: 0), weight)


@wide
def weight_on_everything(logits, labels, *, weight, ignore_index=-100):
    losses = _by_depth(logits, labels, ignore_index)
    return np.asarray(weight * (losses[0] + sum(losses[1:]) / max(len(losses) - 1, 1)))


@wide
def main_model_among_the_averaged(logits, labels, *, weight, ignore_index=-100):
    losses = _by_depth(logits, labels, ignore_index)
    return np.asarray(losses[0] + weight * sum(losses[1:]) / len(losses))


MULTI_TOKEN_FAULTS = {
    "mtp-concat-order": ("multi_token_input", halves_exchanged),
    "hidden state of another row": ("multi_token_input", hidden_of_the_row_before),
    "loss-double-shift": ("cross_entropy", shifted_twice),
    "ignored targets in the divisor": ("cross_entropy", ignored_in_the_divisor),
    "ignore_index ignored": ("cross_entropy", ignore_index_fixed),
    "mean of the rows' means": ("cross_entropy", mean_of_the_rows),
    "maximum left in": ("cross_entropy", maximum_left_in),
    "NaN where none is counted": ("cross_entropy", no_number_where_none_is_counted),
    "loss-denominator-counts-unshifted-labels": ("multi_token_loss", divisor_before_the_shift),
    "modules summed": ("multi_token_loss", modules_summed),
    "every depth shifted alike": ("multi_token_loss", every_depth_shifted_alike),
    "weight on everything": ("multi_token_loss", weight_on_everything),
    "model among the averaged": ("multi_token_loss", main_model_among_the_averaged),
}
