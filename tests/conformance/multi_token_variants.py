"""Legitimate losses and inputs of modules for multi-token prediction that compute in another order."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from tests.conformance.computing import computing_in, rounding_every_step


@rounding_every_step
def input_as_a_sum(embedding, hidden, weight):
    """Two maps, each rounded, and their sum."""
    width = embedding.shape[-1]
    return layers.linear(embedding, weight[:, :width]) + layers.linear(hidden, weight[:, width:])


@computing_in(np.float32)
def cross_entropy_by_log_softmax(logits, targets, *, ignore_index=-100):
    """Log-softmax of everything, then the targets, summed from the last to the first."""
    counted = targets != ignore_index
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_softmax = shifted - np.log(np.cumsum(np.exp(shifted), axis=-1)[..., -1:])
    chosen = np.take_along_axis(log_softmax, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    total = np.cumsum(np.where(counted, -chosen, 0).ravel()[::-1])[-1] if chosen.size else logits.dtype.type(0)
    return np.asarray(total / logits.dtype.type(max(counted.sum(), 1)))


@computing_in(np.float32)
def loss_of_rolled_labels(logits, labels, *, weight, ignore_index=-100):
    """Labels rolled on by one a depth, those that came around ignored."""
    losses, rolled = [], labels
    for each in logits:
        rolled = np.concatenate([rolled[:, 1:], np.full_like(rolled[:, :1], ignore_index)], axis=1)
        losses.append(cross_entropy_by_log_softmax(each, rolled, ignore_index=ignore_index))
    share = logits.dtype.type(weight / max(len(losses) - 1, 1))
    return np.asarray(sum((share * loss for loss in losses[1:]), start=losses[0]))


MULTI_TOKEN_VARIANTS = {
    "multi-token prediction in another order": {
        "multi_token_input": input_as_a_sum,
        "cross_entropy": cross_entropy_by_log_softmax,
        "multi_token_loss": loss_of_rolled_labels,
    }
}
