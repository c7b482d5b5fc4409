"""Distributions by sorting, and drafts verified one after the other."""

from __future__ import annotations

import numpy as np

from conformance.variants.variant import float32, layer
from refimpl.numerics import Array


@float32
def _distribution_by_sorting(
    logits: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Array:
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
def _verification_row_by_row(target: Array, draft: Array, drafts: Array, uniforms: Array) -> tuple[Array, Array]:
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


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


VARIANTS = (
    layer(
        "sampling-by-sorting",
        "Tokens are sorted and filtered from the least likely upwards; drafts are verified one after the other.",
        token_distribution=_distribution_by_sorting,
        speculative_accept=_verification_row_by_row,
    ),
)
