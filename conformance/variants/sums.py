"""Sums in other orders: compensated, in pairs, in blocks, backwards; in linear maps and in the means of norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.variants.variant import Function, Variant, float32, layer
from refimpl.layers import lm_head
from refimpl.numerics import Array

Sum = Callable[[Array], Array]


def _kahan(terms: Array) -> Array:
    """The sum over the last axis, with what each addition loses carried on."""
    total, lost = np.zeros(terms.shape[:-1], terms.dtype), np.zeros(terms.shape[:-1], terms.dtype)
    for index in range(terms.shape[-1]):
        term = terms[..., index] - lost
        new = total + term
        total, lost = new, (new - total) - term
    return total


def _pairwise(terms: Array) -> Array:
    """The sum over the last axis of two halves, each summed so."""
    count = terms.shape[-1]
    if count <= 1:
        return terms.sum(axis=-1)
    return _pairwise(terms[..., : count // 2]) + _pairwise(terms[..., count // 2 :])


def _in_blocks(size: int) -> Sum:
    """One block of so many terms after the other, each summed alone."""

    def summed(terms: Array) -> Array:
        total = np.zeros(terms.shape[:-1], terms.dtype)
        for start in range(0, terms.shape[-1], size):
            total = total + terms[..., start : start + size].sum(axis=-1)
        return total

    return summed


def _strided(terms: Array) -> Array:
    """Four lanes, each of every fourth term, as vector registers have them."""
    return _in_order(np.stack([_in_order(terms[..., lane::4]) for lane in range(4)], axis=-1))


def _in_order(terms: Array) -> Array:
    return np.cumsum(terms, axis=-1)[..., -1] if terms.shape[-1] else terms.sum(axis=-1)


def _backwards(terms: Array) -> Array:
    return _in_order(terms[..., ::-1])


def _linear(summed: Sum) -> Function:
    @float32
    def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
        y = summed(x[..., None, :] * weight)
        return y if bias is None else y + bias

    return linear


def _rms_norm(summed: Sum) -> Function:
    @float32
    def rms_norm(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
        mean = summed(x * x)[..., None] / x.dtype.type(x.shape[-1])
        y = x / np.sqrt(mean + x.dtype.type(eps))
        return y if weight is None else y * (1 + weight if zero_centred else weight)

    return rms_norm


def _layer_norm(summed: Sum) -> Function:
    @float32
    def layer_norm(x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
        count = x.dtype.type(x.shape[-1])
        centred = x - summed(x)[..., None] / count
        y = centred / np.sqrt(summed(centred * centred)[..., None] / count + x.dtype.type(eps)) * weight
        return y if bias is None else y + bias

    return layer_norm


def _l2_norm(summed: Sum) -> Function:
    @float32
    def l2_norm(x: Array, *, eps: float) -> Array:
        return x / np.sqrt(summed(x * x)[..., None] + x.dtype.type(eps))

    return l2_norm


def _variant(id: str, says: str, summed: Sum) -> Variant:
    makers = {"linear": _linear, "rms_norm": _rms_norm, "layer_norm": _layer_norm, "l2_norm": _l2_norm}
    return layer(id, says, **{name: make(summed) for name, make in makers.items()})


@float32
def _lm_head_in_shards(x: Array, weight: Array, **options: Any) -> Array:
    shards = [part for part in np.array_split(weight, 3) if len(part)]
    return np.concatenate([lm_head(x, part, **options) for part in shards], axis=-1)


VARIANTS = (
    _variant("kahan-sums", "What each addition loses is carried on to the next.", _kahan),
    _variant("pairwise-sums", "Two halves, each summed so.", _pairwise),
    _variant("sums-in-order", "One term after the other.", _in_order),
    _variant("sums-backwards", "One term after the other, from the last to the first.", _backwards),
    _variant("sums-in-four-lanes", "Every fourth term into one of four sums.", _strided),
    *(
        _variant(f"sums-in-blocks-of-{size}", f"Blocks of {size} terms, each summed alone, are accumulated.", _in_blocks(size))
        for size in (2, 8, 32)
    ),
    layer("vocabulary-in-shards", "Three parts of the vocabulary, each a product of its own.", lm_head=_lm_head_in_shards),
)
