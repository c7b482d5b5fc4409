"""Losses and inputs of modules for multi-token prediction, computed in another order."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.variants.variant import float32, layer, rounded
from refimpl import layers
from refimpl.numerics import Array


@rounded
def _input_as_a_sum(embedding: Array, hidden: Array, weight: Array) -> Array:
    """Two maps, each rounded, and their sum."""
    width = embedding.shape[-1]
    return layers.linear(embedding, weight[:, :width]) + layers.linear(hidden, weight[:, width:])


@float32
def _cross_entropy_by_log_softmax(logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
    """Log-softmax of everything, then the targets, summed from the last to the first."""
    counted = targets != ignore_index
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_softmax = shifted - np.log(np.cumsum(np.exp(shifted), axis=-1)[..., -1:])
    chosen = np.take_along_axis(log_softmax, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    total = np.cumsum(np.where(counted, -chosen, 0).ravel()[::-1])[-1] if chosen.size else logits.dtype.type(0)
    return np.asarray(total / logits.dtype.type(max(counted.sum(), 1)))


@float32
def _loss_of_rolled_labels(logits: Array, labels: Array, *, weight: float, ignore_index: int = -100) -> Array:
    """Labels rolled on by one a depth, those that came around ignored."""
    losses: list[Any] = []
    rolled = labels
    for each in logits:
        rolled = np.concatenate([rolled[:, 1:], np.full_like(rolled[:, :1], ignore_index)], axis=1)
        losses.append(_cross_entropy_by_log_softmax(each, rolled, ignore_index=ignore_index))
    share = logits.dtype.type(weight / max(len(losses) - 1, 1))
    return np.asarray(sum((share * loss for loss in losses[1:]), start=losses[0]))


VARIANTS = (
    layer(
        "multi-token-prediction-in-another-order",
        "The input as a sum of two maps; losses by log-softmax, from the last target to the first, of rolled labels.",
        multi_token_input=_input_as_a_sum,
        cross_entropy=_cross_entropy_by_log_softmax,
        multi_token_loss=_loss_of_rolled_labels,
    ),
)
