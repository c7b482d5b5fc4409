"""Laws of the indexer: what its scores are made of, what a selection depends on, and attention to selected keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.laws.attention import SCALE, problem
from conformance.laws.law import Call, Draw, Law
from refimpl.numerics import Array

LENGTH, TOP_K = 9, 4


def scores(draw: Draw, *, queries: int = LENGTH) -> Array:
    """[2, T, 9], halves, no two equal in a row, so that a few roundings change no choice."""
    return draw.input(np.argsort(draw.generator.random((2, queries, LENGTH)), axis=-1) / 2 - 2.0)


def kept(call: Call, array: Array, **options: Any) -> Array:
    """1 for the keys that a selection keeps and 0 for the others: [B, T, S]."""
    return np.exp(call("key_selection", array, **{"top_k": TOP_K, **options}))[:, 0]


def heads_apart(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, weights = draw.normal(2, 5, 6, 8), draw.normal(2, LENGTH, 8), draw.normal(2, 5, 6)
    alone = [call("index_scores", q[:, :, h : h + 1], k, weights[..., h : h + 1], scale=SCALE) for h in range(6)]
    return np.sum(alone, axis=0), call("index_scores", q, k, weights, scale=SCALE)


def opposite_heads(call: Call, draw: Draw) -> tuple[Array, Array]:
    """max(a, 0) - max(-a, 0) = a: heads with opposite queries and weights are a plain product."""
    q, k, weights = draw.normal(2, 5, 3, 8), draw.normal(2, LENGTH, 8), draw.normal(2, 5, 3)
    pairs = np.concatenate([q, -q], axis=2), k, np.concatenate([weights, -weights], axis=2)
    return call("index_scores", *pairs, scale=SCALE), SCALE * np.einsum("BTH,BTHK,BSK->BTS", weights, q, k)


def double_weights(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, weights = draw.normal(2, 5, 6, 8), draw.normal(2, LENGTH, 8), draw.normal(2, 5, 6)
    return call("index_scores", q, k, 2 * weights, scale=SCALE), 2 * call("index_scores", q, k, weights, scale=SCALE)


def reordered_keys(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, weights = draw.normal(2, 5, 6, 8), draw.normal(2, LENGTH, 8), draw.normal(2, 5, 6)
    order = draw.generator.permutation(LENGTH)
    left = call("index_scores", q, k[:, order], weights, scale=SCALE)
    return left, call("index_scores", q, k, weights, scale=SCALE)[..., order]


def enough_for_all(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw, length=LENGTH)
    bias = call("key_selection", scores(draw), top_k=LENGTH)
    return call("attention", q, k, v, scale=SCALE, bias=bias), call("attention", q, k, v, scale=SCALE)


def selected_keys_alone(call: Call, draw: Draw) -> tuple[Array, Array]:
    """One query, whose selected keys are all that is there."""
    q, k, v = problem(draw, length=LENGTH)
    found, last = scores(draw, queries=1), q[:, -1:]
    left = call("attention", last, k, v, scale=SCALE, bias=call("key_selection", found, top_k=TOP_K))
    best = np.argsort(-found[:, 0], axis=-1)[:, :TOP_K, None, None]
    few = (np.take_along_axis(array, best, axis=1) for array in (k, v))
    return left, call("attention", last, *few, scale=SCALE)


def incremental(call: Call, draw: Draw) -> tuple[Array, Array]:
    found = scores(draw)
    rows = [kept(call, found[:, t : t + 1, : t + 1]) for t in range(LENGTH)]
    padded = [np.concatenate([row, np.zeros((2, 1, LENGTH - 1 - t))], axis=-1) for t, row in enumerate(rows)]
    return np.concatenate(padded, axis=1).astype(found.dtype), kept(call, found)


def order_of_storage(call: Call, draw: Draw) -> tuple[Array, Array]:
    found, order = scores(draw), draw.generator.permutation(LENGTH)
    places = {"q_order": np.tile(np.arange(LENGTH), (2, 1)), "k_order": np.tile(order, (2, 1))}
    return kept(call, found[..., order], **places), kept(call, found)[..., order]


def left_padding(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Padding columns whose scores are the best."""
    found = scores(draw)
    places = np.tile(np.append([-1] * 3, np.arange(LENGTH)), (2, 1))
    padded = np.concatenate([np.full((2, LENGTH, 3), 8, found.dtype), found], axis=-1)
    left = kept(call, padded, q_order=places[:, 3:], k_order=places)
    return left, np.concatenate([np.zeros((2, LENGTH, 3), found.dtype), kept(call, found)], axis=-1)


def shifted_scores(call: Call, draw: Draw) -> tuple[Array, Array]:
    found = scores(draw)
    return kept(call, found - 8), kept(call, found)


def later_tokens(call: Call, draw: Draw) -> tuple[Array, Array]:
    found, other = scores(draw), scores(draw)
    changed = np.concatenate([found[..., :5], other[..., 5:] + 8], axis=-1)
    return kept(call, changed)[:, :5], kept(call, found)[:, :5]


def _law(name: str, statement: str, sides: Any, *functions: str, phase: str = "any") -> Law:
    return Law(name=name, functions=functions, statement=statement, sides=sides, phase=phase)


SCORES, SELECTION = "index_scores", "key_selection"
LAWS = (
    _law("heads_apart", "scores are the sum of those of each head", heads_apart, SCORES),
    _law("opposite_heads", "two opposite heads are a product that is not rectified", opposite_heads, SCORES),
    _law("double_weights", "double weights double the scores", double_weights, SCORES),
    _law("reordered_keys", "the score of a key is its own", reordered_keys, SCORES),
    _law("enough_for_all", "a choice of as many keys as there are changes nothing", enough_for_all, SELECTION, "attention"),
    _law(
        "selected_alone",
        "attention to selected keys is attention where there are no others",
        selected_keys_alone,
        SELECTION,
        "attention",
        phase="decode",
    ),
    _law("incremental_is_full", "one token at a time selects what all at once select", incremental, SELECTION, phase="decode"),
    _law("order_of_storage", "the order in which keys are stored changes nothing", order_of_storage, SELECTION),
    _law("left_padding", "padding on the left changes nothing", left_padding, SELECTION, phase="padded"),
    _law("shift", "a constant added to all scores changes nothing", shifted_scores, SELECTION),
    _law("later_tokens", "later tokens never change earlier selections", later_tokens, SELECTION, phase="prefill"),
)
