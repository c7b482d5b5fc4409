"""The indexer: products of both signs, weights of both signs; scores whose best keys must not be chosen, and equal ones.

A selection has no budget: it is right or wrong, and of equal scores any may be kept (`conformance.choice`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.cases.places import places
from conformance.choice import favouring_kept
from conformance.family import Edge, Family, Inputs, Values, edge
from refimpl.layers import attention_mask

# Scores of which many are equal, around 0.
LEVELS = (-1.0, 0.0, 2.0)
# What a score that must not count has above the others.
OUTSIDE = 6.0


def index_scores(
    values: Values,
    *,
    batch: int = 2,
    queries: int,
    keys: int,
    heads: int,
    width: int,
    scale: float | None = None,
    sign: float | None = None,
) -> Inputs:
    """sign: of all products, at random where it is None. Heads differ in size, so that any two that are exchanged show."""
    q = values.standard_normal((batch, queries, heads, width))
    k = values.standard_normal((batch, keys, width))
    if sign is not None:
        q, k = np.abs(q), sign * np.abs(k)
    q *= values.permutation(np.linspace(0.5, 2, heads))[:, None]
    weights = values.standard_normal((batch, queries, heads))
    return Inputs({"q": q, "k": k, "weights": weights}, {"scale": width**-0.5 if scale is None else scale})


def key_selection(
    values: Values,
    *,
    batch: int = 2,
    queries: int,
    keys: int,
    top_k: int,
    causal: bool = True,
    order: str | None = None,
    mean: float = 0.0,
    ties: bool = False,
) -> Inputs:
    """Scores around `mean`, or few different ones, and the highest at keys that are not seen.

    order: as in `places`, None leaves the orders away.
    """
    q_order, k_order = places(values, batch, queries, keys, order or "plain")
    shape = (batch, queries, keys)
    steps = np.argsort(values.random(shape), axis=-1) + values.uniform(-0.2, 0.2, shape)
    scores = values.choice(LEVELS, shape) if ties else mean + 3 * (2 * (steps + 0.5) / keys - 1)
    scores = np.where(attention_mask(q_order, k_order, causal=causal), scores, scores + OUTSIDE)
    orders = {} if order is None else {"q_order": q_order, "k_order": k_order}
    return Inputs({"scores": scores}, {"top_k": top_k, **({} if causal else {"causal": False}), **orders})


HEADS = {"queries": 5, "keys": 11, "heads": 6, "width": 8}
PLACES = {"queries": 5, "keys": 11, "top_k": 4}
PADDED = {**PLACES, "batch": 3}
ONE = {"queries": 1, "keys": 13, "top_k": 4}


def _scores() -> tuple[Edge, ...]:
    return (
        edge("plain", "prefill", "t5s5h6k8", "R1", "R3", **{**HEADS, "keys": 5}),
        edge("plain", "pieces", "t5s11h6k8", "R1", **HEADS),
        edge("plain", "decode", "s13h6k8", "R1", **{**HEADS, "queries": 1, "keys": 13}),
        edge("many_heads", "decode", "s19h64k12", "R2", queries=1, keys=19, heads=64, width=12),
        edge("one_head", "pieces", "t5s11h1k8", "R2", **{**HEADS, "heads": 1}),
        edge("one_key", "prefill", "t1s1h6k8", "R1", **{**HEADS, "queries": 1, "keys": 1}),
        edge("other_scale", "pieces", "t5s11h6k8", "R1", scale=0.17, **HEADS),
        edge("all_positive", "pieces", "t5s11h6k8", "R1", sign=1.0, **HEADS),
        edge("all_negative", "pieces", "t5s11h6k8", "R1", sign=-1.0, **HEADS),
    )


def _selections() -> tuple[Edge, ...]:
    return (
        edge("plain", "prefill", "t11s11a4", "R1", "R2", **{**PLACES, "queries": 11}),
        edge("plain", "pieces", "t5s11a4", "R1", **PLACES),
        edge("plain", "decode", "s13a4", "R1", **ONE),
        edge("long", "decode", "s145a64", "R1", batch=1, queries=1, keys=145, top_k=64),
        edge("not_causal", "prefill", "t5s11a4", "R1", causal=False, **PLACES),
        edge("one_key", "pieces", "t5s11a1", "R1", **{**PLACES, "top_k": 1}),
        edge("exactly_all", "pieces", "t5s11a11", "R2", **{**PLACES, "top_k": 11}),
        edge("more_than_all", "pieces", "t5s11a40", "R2", **{**PLACES, "top_k": 40}),
        edge("negative", "pieces", "t5s11a4", "R1", "R2", mean=-9.0, **PLACES),
        edge("left_padding", "padded", "t5s11a4", "R1", order="left", **PADDED),
        edge("right_padding", "padded", "t5s11a4", "R1", order="right", **PADDED),
        edge("middle_padding", "padded", "t5s11a4", "R1", order="middle", **PADDED),
        edge("negative_left_padding", "padded", "t5s11a4", "R1", "R2", order="left", mean=-9.0, **PADDED),
        edge("shuffled", "pieces", "t5s11a4", "R4", order="shuffled", **PLACES),
        edge("empty_row", "padded", "t5s11a4", "R5", order="empty", **PADDED),
        edge("ties", "pieces", "t5s11a4", "R3", ties=True, **PLACES),
        edge("shuffled_ties", "decode", "s13a4", "R3", "R4", ties=True, order="shuffled", **ONE),
    )


def _family(function: str, build: Any, axes: str, edges: tuple[Edge, ...], **options: Any) -> Family:
    return Family(function=function, build=build, axes=(axes,), edges=edges, **options)


FAMILIES = (
    _family("index_scores", index_scores, "BTS", _scores()),
    _family("key_selection", key_selection, "BHTS", _selections(), exact=True, chooses=favouring_kept),
)
