"""Sampling: filters whose borders are clear, ties on them, and drafts that stand or fall by a wide margin in every row.

Rows of logits whose filters a few roundings could move are drawn again. Tied logits are 0, which no rounding separates.
Not asked for: equal logits on the border of top_p, which some implementations sort in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.choice import ROUNDINGS, drawn_until
from conformance.family import Family, Inputs, Values, edge
from refimpl import layers
from refimpl.numerics import Array

TRIALS = 8


def token_distribution(
    values: Values,
    *,
    front: tuple[int, ...],
    vocabulary: int,
    heat: float = 2.0,
    tied: int | None = None,
    shown: int | None = None,
    **options: Any,
) -> Inputs:
    """Logits of size `heat`. tied: around this rank three are equal. shown: how many tokens of a row are not at -inf."""

    def draw(count: int) -> Array:
        rows = np.sort(_stored(values, heat * values.standard_normal((count, vocabulary))), axis=-1)[:, ::-1]
        if tied is not None:
            rows = rows - rows[:, tied, None]
            rows[:, max(tied - 1, 0) : tied + 2] = 0
        if shown is not None:
            rows[:, shown:] = -np.inf
        return _stored(values, values.permuted(rows, axis=-1))

    def keep(rows: Array) -> Array:
        return _filters_stand(values, rows, **options)

    rows = drawn_until(keep, draw, int(np.prod(front)))
    return Inputs({"logits": rows.reshape(*front, vocabulary)}, options)


def speculative_accept(
    values: Values, *, batch: int, drafted: int, vocabulary: int, kind: str = "soft", heat: float = 1.2
) -> Inputs:
    """Row b keeps b mod (T + 1) drafts, and those after the first that falls would stand by themselves.

    kind: what p and q are. soft: two distributions. less_likely: drafts that stand have p < q as well. one_better: p below q
    at every token but one. greedy_draft: q is 1 at the draft. greedy: p too is 1 at one token. excluded_by_target: the draft
    that falls has p = 0, u = 0. excluded_by_draft: those that stand have q = 0.
    """
    target = _distributions(values, (batch, drafted + 1, vocabulary), heat)
    draft = _distributions(values, (batch, drafted, vocabulary), heat)
    if kind == "one_better":
        target[:, :-1] = 0.75 * draft
        places = values.integers(vocabulary, size=(batch, drafted, 1))
        np.put_along_axis(target[:, :-1], places, np.take_along_axis(draft, places, axis=-1) + 0.25, axis=-1)
    if kind == "greedy":
        target = _one_hot(np.argmax(target, axis=-1), vocabulary)
    target, draft = _stored(values, target), _stored(values, draft)
    kept = np.arange(drafted) != (np.arange(batch) % (drafted + 1))[:, None]
    ratio = target[:, :-1] / (1 if kind.startswith("greedy") else draft)
    likelier = kept & (kind != "less_likely")
    drafts = np.where(likelier, np.argmax(ratio, axis=-1), np.argmin(ratio, axis=-1))
    if kind.startswith("greedy"):
        draft = _one_hot(drafts, vocabulary)
    # A draft falls by a wide margin, whatever was drawn.
    highest = 0.0 if kind == "excluded_by_target" else 0.75
    p, q = _at(target[:, :-1], drafts), _at(draft, drafts)
    _put(target[:, :-1], drafts, np.where(kept, p, np.minimum(p, highest * q)))
    if kind == "excluded_by_draft":
        _put(draft, drafts, np.where(kept, 0, _at(draft, drafts)))
    with np.errstate(divide="ignore"):
        limit = np.minimum(_at(target[:, :-1], drafts) / _at(draft, drafts), 1)
    falls = limit + (1 - limit) * values.uniform(0.4, 0.7, limit.shape)
    if kind == "excluded_by_target":
        falls = np.zeros(limit.shape)
    uniforms = np.where(kept, limit * values.uniform(0.4, 0.8, limit.shape), falls)
    return Inputs({"target": target, "draft": draft, "drafts": drafts, "uniforms": _stored(values, uniforms)}, {})


def _filters_stand(values: Values, rows: Array, **options: Any) -> Array:
    """Rows [N, V] of which the same tokens stay though every logit but 0 moves by several roundings."""
    stay = layers.token_distribution(rows, **options) > 0
    step = np.where(np.isfinite(rows), ROUNDINGS * values.roundoff * np.abs(rows), 0)
    directions = [np.where(stay, 1.0, -1.0), np.where(stay, -1.0, 1.0)]
    directions += [values.choice((-1.0, 1.0), rows.shape) for _ in range(TRIALS)]
    moved = [layers.token_distribution(rows + step * direction, **options) > 0 for direction in directions]
    return np.all([(one == stay).all(axis=-1) for one in moved], axis=0)


def _distributions(values: Values, shape: tuple[int, ...], heat: float) -> Array:
    """Softmax of logits of size `heat`, of which no probability is too small for any format."""
    return 0.98 * layers.token_distribution(heat * values.standard_normal(shape)) + 0.02 / shape[-1]


def _one_hot(tokens: Array, vocabulary: int) -> Array:
    return (np.arange(vocabulary) == tokens[..., None]).astype(np.float64)


def _at(probabilities: Array, tokens: Array) -> Array:
    return np.take_along_axis(probabilities, tokens[..., None], axis=-1)[..., 0]


def _put(probabilities: Array, tokens: Array, chances: Array) -> None:
    np.put_along_axis(probabilities, tokens[..., None], chances[..., None], axis=-1)


def _stored(values: Values, array: Array) -> Array:
    """`array` as the tested dtype holds it."""
    return array.astype(values.format).astype(np.float64)


ROWS = {"front": (2, 5), "vocabulary": 13}
SIZE = "b2t5v13"
DRAFTED = {"batch": 8, "drafted": 3, "vocabulary": 11}
DRAFTED_SIZE = "b8t3v11"

FAMILIES = (
    Family(
        function="token_distribution",
        build=token_distribution,
        axes=("",),
        edges=(
            edge("plain", "any", SIZE, **ROWS),
            edge("one_row", "decode", "v7", front=(), vocabulary=7),
            edge("cool", "any", SIZE, "R1", temperature=0.5, **ROWS),
            edge("warm", "any", SIZE, "R1", temperature=1.75, **ROWS),
            edge("greedy", "any", SIZE, "R6", temperature=0.0, **ROWS),
            edge("greedy_ties", "any", SIZE, "R6", temperature=0.0, tied=0, **ROWS),
            edge("greedy_filtered", "any", SIZE, "R6", temperature=0.0, tied=0, top_k=2, top_p=0.5, min_p=0.1, **ROWS),
            edge("top_k", "any", SIZE, top_k=4, **ROWS),
            edge("top_1", "any", SIZE, "R5", top_k=1, **ROWS),
            edge("top_k_ties", "any", SIZE, "R2", top_k=4, tied=3, **ROWS),
            edge("top_p", "any", SIZE, "R3", top_p=0.75, **ROWS),
            edge("small_top_p", "any", SIZE, "R5", top_p=0.05, **ROWS),
            edge("min_p", "any", SIZE, "R5", min_p=0.25, **ROWS),
            edge("warm_top_p", "any", SIZE, "R1", temperature=2.5, top_p=0.75, **ROWS),
            edge("cool_min_p", "any", SIZE, "R1", temperature=0.5, min_p=0.125, **ROWS),
            edge("top_k_top_p", "any", SIZE, "R4", top_k=4, top_p=0.75, **ROWS),
            edge("all_filters", "any", SIZE, "R1", "R4", temperature=1.5, top_k=6, top_p=0.875, min_p=0.125, **ROWS),
            edge("filters_of_nothing", "any", "t5v7", "R5", front=(5,), vocabulary=7, top_k=9, top_p=1.0, min_p=0.0),
            edge("hidden_tokens", "any", SIZE, "R7", shown=6, top_p=0.875, **ROWS),
            edge("too_few_shown", "any", SIZE, "R7", shown=2, top_k=4, **ROWS),
        ),
    ),
    Family(
        function="speculative_accept",
        build=speculative_accept,
        axes=("B", "BV"),
        edges=(
            edge("plain", "any", DRAFTED_SIZE, "R1", "R2", **DRAFTED),
            edge("less_likely", "any", DRAFTED_SIZE, "R1", kind="less_likely", **DRAFTED),
            edge("far_apart", "any", DRAFTED_SIZE, "R2", heat=4.0, **DRAFTED),
            edge("one_better", "any", DRAFTED_SIZE, "R2", kind="one_better", **DRAFTED),
            edge("greedy_draft", "any", DRAFTED_SIZE, "R1", "R2", kind="greedy_draft", **DRAFTED),
            edge("greedy", "any", DRAFTED_SIZE, "R1", "R3", kind="greedy", **DRAFTED),
            edge("excluded_by_target", "any", DRAFTED_SIZE, "R5", kind="excluded_by_target", **DRAFTED),
            edge("excluded_by_draft", "any", DRAFTED_SIZE, "R5", kind="excluded_by_draft", **DRAFTED),
            edge("one_draft", "any", "b4t1v7", "R3", batch=4, drafted=1, vocabulary=7),
            edge("no_draft", "any", "b3t0v7", "R3", batch=3, drafted=0, vocabulary=7),
        ),
    ),
)
