"""Sampling that is right in other ways than the specification."""

from __future__ import annotations

import numpy as np

from tests.conformance.computing import computing_in

float32 = computing_in(np.float32)


@float32
def distribution_by_sorting(logits, *, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """Tokens are sorted, filtered from the least likely upwards, and put back."""
    if temperature == 0:
        return (np.cumsum(np.cumsum(logits == logits.max(axis=-1, keepdims=True), axis=-1), axis=-1) == 1).astype(logits.dtype)
    order = np.argsort(logits, axis=-1, kind="stable")
    ascending = np.take_along_axis(logits, order, axis=-1) / logits.dtype.type(temperature)
    if top_k is not None:
        ascending = np.where(ascending < ascending[..., max(-top_k, -logits.shape[-1]), None], -np.inf, ascending)
    if top_p is not None and top_p < 1:
        tail = np.cumsum(_softmax(ascending), axis=-1)
        ascending = np.where((tail <= 1 - top_p) & (np.arange(logits.shape[-1]) < logits.shape[-1] - 1), -np.inf, ascending)
    if min_p is not None and min_p > 0:
        ascending = np.where(ascending < ascending[..., -1:] + np.log(logits.dtype.type(min_p)), -np.inf, ascending)
    result = np.empty_like(ascending)
    np.put_along_axis(result, order, _softmax(ascending), axis=-1)
    return result


@float32
def verification_row_by_row(target, draft, drafts, uniforms):
    """One draft after the other, by the ratio itself; the residual through logarithms."""
    accepted, following = np.zeros(len(drafts), np.int64), target[:, -1].copy()
    for b, row in enumerate(drafts):
        for t, x in enumerate(row):
            p, q = target[b, t], draft[b, t]
            if p[x] > 0 and (q[x] == 0 or uniforms[b, t] < p[x] / q[x]):
                accepted[b] += 1
                continue
            likelier = p > q
            logarithms = np.full(p.shape, -np.inf, p.dtype)
            logarithms[likelier] = np.log(p[likelier]) + np.log1p(-q[likelier] / p[likelier])
            following[b] = _softmax(logarithms)
            break
    return accepted, following


def _softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


SAMPLING_VARIANTS = {
    "sampling by sorting, drafts one after the other": {
        "token_distribution": distribution_by_sorting,
        "speculative_accept": verification_row_by_row,
    },
}
