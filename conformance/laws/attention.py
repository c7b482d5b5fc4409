"""Laws of attention: cache, masks, sinks, heads and the order of keys."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from conformance.laws.law import Call, Draw, Law
from refimpl.numerics import Array

SCALE = 0.25


class Problem(NamedTuple):
    """q [B, S, H, K], k [B, S, G, K], v [B, S, G, J]: a query at every place."""

    q: Array
    k: Array
    v: Array


def problem(draw: Draw, *, length: int = 9, heads: int = 6, kv_heads: int = 2) -> Problem:
    """Logits of size 4, so that the weights are far from equal."""
    q = draw.normal(2, length, heads, 8, scale=3)
    return Problem(q, draw.normal(2, length, kv_heads, 8, scale=2), draw.normal(2, length, kv_heads, 7))


def incremental_is_full(**options: Any) -> Any:
    """One token at a time."""
    return pieces_are_whole((1,) * 9, **options)


def pieces_are_whole(lengths: tuple[int, ...], **options: Any) -> Any:
    """The queries of a piece see the keys up to its end."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        q, k, v = problem(draw)
        sinks = {"sinks": draw.normal(6, scale=3)} if "sinks" in options else {}
        settings = {"scale": SCALE, **options, **sinks}
        ends = np.cumsum(lengths)
        pieces = [
            call("attention", q[:, end - length : end], k[:, :end], v[:, :end], **settings)
            for length, end in zip(lengths, ends, strict=True)
        ]
        return np.concatenate(pieces, axis=1), call("attention", q, k, v, **settings)

    return sides


def window_of_the_length_is_none(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    return call("attention", q, k, v, scale=SCALE, window=9), call("attention", q, k, v, scale=SCALE)


def sink_is_a_key_without_value(call: Call, draw: Draw) -> tuple[Array, Array]:
    """A first key along an extra axis on which every query is 1."""
    q, k, v = problem(draw, heads=5, kv_heads=5)
    sinks = draw.grid(5)
    left = call("attention", q, k, v, scale=SCALE, sinks=sinks)
    extra = np.concatenate([np.zeros((2, 1, 5, 8)), np.broadcast_to(sinks[:, None] / SCALE, (2, 1, 5, 1))], axis=-1)
    q = np.concatenate([q, np.ones_like(q[..., :1])], axis=-1)
    k = np.concatenate([extra, np.concatenate([k, np.zeros_like(k[..., :1])], axis=-1)], axis=1).astype(q.dtype)
    return left, call("attention", q, k, np.concatenate([np.zeros_like(v[:, :1]), v], axis=1), scale=SCALE)


def order_of_the_past(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    order = np.append(draw.generator.permutation(8), 8)
    new = q[:, -1:]
    return call("attention", new, k[:, order], v[:, order], scale=SCALE), call("attention", new, k, v, scale=SCALE)


def order_of_storage(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    order = draw.generator.permutation(9)
    places = {"q_order": np.tile(np.arange(9), (2, 1)), "k_order": np.tile(order, (2, 1))}
    left = call("attention", q, k[:, order], v[:, order], scale=SCALE, window=4, **places)
    return left, call("attention", q, k, v, scale=SCALE, window=4)


def key_bias(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, _, v = problem(draw)
    k, bias = draw.grid(2, 9, 2, 8), draw.grid(2, 8)
    return call("attention", q, k + bias, v, scale=SCALE), call("attention", q, k, v, scale=SCALE)


def later_tokens(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    other = problem(draw, length=4)
    changed = [np.concatenate([array[:, :5], later], axis=1) for array, later in zip((q, k, v), other, strict=True)]
    return call("attention", *changed, scale=SCALE)[:, :5], call("attention", q, k, v, scale=SCALE)[:, :5]


def padding(side: str) -> Any:
    """Padding columns with large keys and values on one side of every row."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        real = problem(draw, length=6)
        noise = [8 * array for array in problem(draw, length=3)]
        order = np.arange(6)
        pads = np.full(3, -1)
        joined = [pads, order] if side == "left" else [order, pads]
        kept = slice(3, None) if side == "left" else slice(6)
        padded = [
            np.concatenate([pad, array] if side == "left" else [array, pad], axis=1)
            for pad, array in zip(noise, real, strict=True)
        ]
        places = np.tile(np.concatenate(joined), (2, 1))
        left = call("attention", *padded, scale=SCALE, q_order=places, k_order=places)[:, kept]
        return left, call("attention", *real, scale=SCALE)

    return sides


def repeated_heads(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    many = [np.repeat(array, 3, axis=2) for array in (k, v)]
    return call("attention", q, k, v, scale=SCALE), call("attention", q, *many, scale=SCALE)


def huge_cap(call: Call, draw: Draw) -> tuple[Array, Array]:
    """The cap is large enough to vanish in the dtype, and small enough not to overflow in it."""
    q, k, v = problem(draw)
    cap = 2.0 ** (3 - round(np.log2(draw.roundoff) * 2 / 3))
    return call("attention", q, k, v, scale=SCALE, softcap=cap), call("attention", q, k, v, scale=SCALE)


def batch_rows(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    alone = [call("attention", q[row : row + 1], k[row : row + 1], v[row : row + 1], scale=SCALE) for row in (0, 1)]
    return np.concatenate(alone), call("attention", q, k, v, scale=SCALE)


def _law(name: str, statement: str, sides: Any, phase: str = "prefill") -> Law:
    return Law(name=name, functions=("attention",), statement=statement, sides=sides, phase=phase)


ONE_BY_ONE = "one token at a time gives what all at once give"
PIECES = "prefill in pieces gives what all at once give"
LAWS = (
    _law("incremental_is_full", ONE_BY_ONE, incremental_is_full(), "decode"),
    _law("incremental_is_full_window", ONE_BY_ONE, incremental_is_full(window=4), "decode"),
    _law("incremental_is_full_chunk", ONE_BY_ONE, incremental_is_full(chunk=4), "decode"),
    _law("incremental_is_full_sinks", ONE_BY_ONE, incremental_is_full(sinks=True, window=3), "decode"),
    _law("pieces_are_whole", PIECES, pieces_are_whole((3, 1, 5)), "pieces"),
    _law("pieces_are_whole_window", PIECES, pieces_are_whole((3, 1, 5), window=4), "pieces"),
    _law("pieces_are_whole_softcap", PIECES, pieces_are_whole((3, 1, 5), softcap=4.0), "pieces"),
    _law("window_of_the_length_is_none", "a window of the length changes nothing", window_of_the_length_is_none),
    _law("sink_is_a_key", "a sink is one key that all see, with the sink as logit and no value", sink_is_a_key_without_value),
    _law("order_of_the_past", "without positions the past is a set", order_of_the_past, "decode"),
    _law("order_of_storage", "the order in which keys are stored changes nothing", order_of_storage),
    _law("key_bias", "the same vector added to all keys changes nothing", key_bias),
    _law("later_tokens", "later tokens never change earlier outputs", later_tokens),
    _law("left_padding", "padding on the left changes nothing", padding("left"), "padded"),
    _law("right_padding", "padding on the right changes nothing", padding("right"), "padded"),
    _law("repeated_heads", "grouped heads are heads with repeated keys and values", repeated_heads),
    _law("huge_cap", "a huge softcap changes nothing", huge_cap),
    _law("batch_rows", "rows of a batch do not see each other", batch_rows),
)
