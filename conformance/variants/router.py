"""Routers by logarithms, by tanh, by powers of two; ones that choose first, and ones that choose in another order."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from conformance.backends import numpy as specification
from conformance.variants.variant import Variant, float32, layer
from refimpl.numerics import Array

Choice = tuple[Array, Array]
ROUTERS = (
    "top_k_softmax_router",
    "softmax_top_k_router",
    "softcapped_softmax_router",
    "sigmoid_router",
    "top_k_sigmoid_router",
)


def _best(scores: Array, top_k: int) -> Array:
    """Of equal scores the last is chosen, and comes first."""
    return np.argsort(scores, axis=-1, kind="stable")[..., ::-1][..., :top_k]


def _at(values: Array, indices: Array) -> Array:
    return np.take_along_axis(values, indices, axis=-1)


@float32
def _by_log_softmax(logits: Array, *, top_k: int) -> Choice:
    indices = _best(logits, top_k)
    chosen = _at(logits, indices)
    # Below the largest first: a log-sum-exp of the size of the logits is rounded by more than what any release does.
    shifted = chosen - chosen.max(axis=-1, keepdims=True)
    return indices, np.exp(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@float32
def _softmax_then_choose(logits: Array, *, top_k: int) -> Choice:
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    indices = _best(logits, top_k)
    weights = _at(probabilities / probabilities.sum(axis=-1, keepdims=True), indices)
    return indices, weights / weights.sum(axis=-1, keepdims=True)


@float32
def _choose_then_softmax(logits: Array, *, top_k: int, renormalise: bool) -> Choice:
    """The softmax keeps the order."""
    indices = _best(logits, top_k)
    if renormalise:
        return indices, _by_log_softmax(logits, top_k=top_k)[1]
    total = np.log(np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True))
    return indices, np.exp(_at(logits, indices) - logits.max(axis=-1, keepdims=True) - total)


@float32
def _softcapped(logits: Array, *, top_k: int, softcap: float) -> Any:
    cap = logits.dtype.type(softcap)
    return _choose_then_softmax(cap * np.tanh(logits / cap), top_k=top_k, renormalise=False)


@float32
def _sigmoid_by_tanh(
    logits: Array,
    correction_bias: Array | None = None,
    *,
    top_k: int,
    groups: int = 1,
    top_groups: int = 1,
    renormalise: bool = True,
    eps: float = 1e-20,
    scaling_factor: float = 1.0,
) -> Choice:
    """Groups one after the other; the factor divides the sum."""
    scores = (np.tanh(logits / 2) + 1) / 2
    corrected = scores + (0 if correction_bias is None else correction_bias)
    grouped = corrected.reshape(*corrected.shape[:-1], groups, -1)
    if groups > 1:
        two = -np.sort(-grouped, axis=-1)[..., :2]
        best = _best(two.sum(axis=-1), top_groups)
        hidden = ~(np.arange(groups) == best[..., None]).any(axis=-2)
        grouped = np.where(hidden[..., None], grouped.dtype.type(-np.inf), grouped)
    indices = _best(grouped.reshape(corrected.shape), top_k)
    weights = 1 / (1 + np.exp(-_at(logits, indices)))
    scale = scores.dtype.type(scaling_factor)
    if not renormalise:
        return indices, weights * scale
    return indices, weights / ((weights.sum(axis=-1, keepdims=True) + scores.dtype.type(eps)) / scale)


@float32
def _top_k_sigmoid_by_tanh(logits: Array, *, top_k: int) -> Choice:
    indices = _best(logits, top_k)
    return indices, (np.tanh(_at(logits, indices) / 2) + 1) / 2


def _powers(logits: Array) -> Array:
    """exp of logits below their largest, by powers of two."""
    return np.exp2((logits - logits.max(axis=-1, keepdims=True)) * logits.dtype.type(np.log2(np.e)))


@float32
def _powers_of_the_chosen(logits: Array, *, top_k: int) -> Choice:
    indices = _best(logits, top_k)
    weights = _powers(_at(logits, indices))
    return indices, weights / weights.sum(axis=-1, keepdims=True)


@float32
def _powers_of_all(logits: Array, *, top_k: int, renormalise: bool) -> Choice:
    indices, weights = _best(logits, top_k), _powers(logits)
    chosen = _at(weights, indices)
    return indices, chosen / (chosen if renormalise else weights).sum(axis=-1, keepdims=True)


def _in_another_order(name: str, order: Callable[[Array], Array]) -> Callable[..., Any]:
    """The specification's choice in the order of the columns order(indices) [..., A]."""
    choose = getattr(specification, name)

    @wraps(choose)
    def router(*values: Any, **options: Any) -> Choice:
        indices, weights = choose(*values, **options)
        columns = order(indices)
        return _at(indices, columns), _at(weights, columns)

    return router


def _by_number(indices: Array) -> Array:
    return np.argsort(indices, axis=-1)


def _reversed(indices: Array) -> Array:
    return np.broadcast_to(np.arange(indices.shape[-1])[::-1], indices.shape)


def _unsorted(id: str, says: str, order: Callable[[Array], Array]) -> Variant:
    return Variant(id=id, says=says, together={name: _in_another_order(name, order) for name in ROUTERS})


VARIANTS = (
    layer(
        "routers-by-logarithms",
        "Softmax by its logarithm and sigmoid by tanh; of equal scores the last is chosen.",
        top_k_softmax_router=_by_log_softmax,
        softmax_top_k_router=_choose_then_softmax,
        softcapped_softmax_router=_softcapped,
        sigmoid_router=_sigmoid_by_tanh,
        top_k_sigmoid_router=_top_k_sigmoid_by_tanh,
    ),
    layer(
        "softmax-before-the-choice",
        "A softmax over all experts, renormalised over the chosen ones.",
        top_k_softmax_router=_softmax_then_choose,
    ),
    layer(
        "routers-in-base-two",
        "Exponentials are powers of two.",
        top_k_softmax_router=_powers_of_the_chosen,
        softmax_top_k_router=_powers_of_all,
    ),
    _unsorted("chosen-by-number", "The chosen experts come in the order of their numbers.", _by_number),
    _unsorted("chosen-from-the-least", "The chosen experts come from the least to the largest score.", _reversed),
)
