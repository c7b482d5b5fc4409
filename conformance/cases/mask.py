"""Masks: judged exactly, on rows of places with padding, gaps and any storage order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.cases.places import PLACES, places
from conformance.family import INTEGERS, Edge, Family, Inputs, Values, edge


def masked(values: Values, *, queries: int, keys: int, batch: int = 3, order: str = "plain", **options: Any) -> Inputs:
    """Places of `queries` new tokens among `keys`, stored as `order` says."""
    q_order, k_order = places(values, batch, queries, keys, order)
    return Inputs({"q_order": q_order, "k_order": k_order}, options)


def _edges(variant: str, *rules: str, **options: Any) -> tuple[Edge, ...]:
    return tuple(
        edge(f"{variant}_{order}", phase, f"t{queries}s{keys}", *rules, queries=queries, keys=keys, order=order, **options)
        for order, phase, queries, keys in (
            ("plain", "prefill", 7, 7),
            ("left", "padded", 4, 11),
            ("shuffled", "decode", 1, 13),
        )
    )


def _family(function: str, edges: tuple[Edge, ...], build: Callable[..., Inputs] = masked) -> Family:
    return Family(function=function, build=build, axes=("BTS",), dtypes=INTEGERS, edges=edges)


FAMILIES = (
    _family(
        "padding_mask",
        tuple(edge(order, "padded", "t5s9", "R1", queries=5, keys=9, order=order) for order in PLACES if order != "plain"),
    ),
    _family("causal_mask", _edges("causal", "R1")),
    _family(
        "sliding_window_mask",
        (*_edges("window", "R1", window=3), *_edges("one", "R1", window=1), *_edges("wide", "R2", window=40)),
    ),
    _family("chunked_mask", (*_edges("chunk", "R1", chunk=4), *_edges("wide", "R1", chunk=40))),
    _family(
        "attention_mask",
        (
            *_edges("causal"),
            *_edges("all", causal=False),
            *_edges("window", "R1", window=3),
            *_edges("chunk", "R1", chunk=3),
            *_edges("window_chunk", "R1", window=3, chunk=4),
        ),
    ),
)
