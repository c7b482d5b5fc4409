"""Attention: every key that must not be seen lies where a mistake would look, matches a query, and has a value of note."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.cases.places import places
from conformance.family import Edge, Family, Inputs, Values, edge
from refimpl.layers import attention_mask
from refimpl.numerics import Array

# Logits, in units where noise is about 1: of a key just outside what a query may see, and of one just inside.
OUTSIDE, INSIDE = 6.0, 4.0


def attention(
    values: Values,
    *,
    batch: int = 2,
    queries: int,
    keys: int,
    heads: int,
    kv_heads: int,
    key_width: int,
    value_width: int,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    temperature: bool = False,
    sinks: bool = False,
    bias: str | None = None,
    order: str | None = None,
) -> Inputs:
    """order: as in `places`, None leaves the orders away. bias: as in `biases`.

    temperature: of each query its own, between 0.5 and 2.
    """
    scale = key_width**-0.5 if scale is None else scale
    q_order, k_order = places(values, batch, queries, keys, order or "plain")
    pull = lift(q_order, k_order, causal=causal, window=window, chunk=chunk, bias=bias)
    # Each query has a direction of its own, shared by the heads of its group; a key points where it is to be found.
    directions = values.standard_normal((batch, queries, kv_heads, key_width))
    directions *= np.sqrt(key_width / np.sum(directions**2, axis=-1, keepdims=True))
    q = np.repeat(directions, heads // kv_heads, axis=2)
    q += 0.3 * values.standard_normal(q.shape)
    k = 0.5 * values.standard_normal((batch, keys, kv_heads, key_width))
    k += np.einsum("BTS,BTGK->BSGK", pull, directions) / (scale * key_width)
    v = values.standard_normal((batch, keys, kv_heads, value_width))
    v[k_order < 0] *= 4
    arrays: dict[str, Any] = {}
    if temperature:
        arrays["temperature"] = values.uniform(0.5, 2, (batch, queries))
    if sinks:
        arrays["sinks"] = values.normal(INSIDE - 1, 1.5, heads)
    if bias is not None:
        arrays["bias"] = biases(values, bias, heads, q_order, k_order)
    if order is not None:
        arrays |= {"q_order": q_order, "k_order": k_order}
    switches = {"window": window, "chunk": chunk, "softcap": softcap}
    options = {name: value for name, value in switches.items() if value is not None}
    return Inputs({"q": q, "k": k, "v": v}, {"scale": scale, **({} if causal else {"causal": False}), **options, **arrays})


def biases(values: Values, kind: str, heads: int, q_order: Array, k_order: Array) -> Array:
    """full: a number for each logit [B, H, T, S]. keys: one a key [1, 1, 1, S].

    selected: 0 for some keys [B, 1, T, S], a token's own among them, and -inf for the rest, the one before it among them.
    """
    (batch, queries), keys = q_order.shape, k_order.shape[1]
    if kind == "selected":
        return np.where(_selected(q_order, k_order), 0.0, -np.inf)[:, None]
    return 2 * values.standard_normal((batch, heads, queries, keys) if kind == "full" else (1, 1, 1, keys))


def _selected(q_order: Array, k_order: Array) -> Array:
    selected: Array = (q_order[:, :, None] - k_order[:, None, :]) % 2 == 0
    return selected


def lift(
    q_order: Array,
    k_order: Array,
    *,
    causal: bool,
    window: int | None = None,
    chunk: int | None = None,
    bias: str | None = None,
) -> Array:
    """The logits [B, T, S] that make borders matter: the nearest keys on both sides of each border of what is seen."""
    q_BT1, k_B1S = q_order[:, :, None], k_order[:, None, :]
    visible = attention_mask(q_order, k_order, causal=causal, window=window, chunk=chunk)
    borders = [q_BT1 + 1] if causal else [q_BT1]
    if window is not None:
        borders.append(q_BT1 - window + 1)
    if chunk is not None:
        borders.append(q_BT1 // chunk * chunk)
    if bias == "selected":
        visible &= _selected(q_order, k_order)
        borders.append(q_BT1)
    near = np.zeros(visible.shape, bool)
    for border in borders:
        near |= (k_B1S == border) | (k_B1S == border - 1)
    near &= (k_B1S >= 0) & (q_BT1 >= 0)
    empty_slot = (k_B1S < 0) & (np.arange(k_order.shape[1]) % q_order.shape[1] == np.arange(q_order.shape[1])[:, None])
    return np.where(visible, INSIDE, OUTSIDE) * (near | empty_slot)


SIZES = {"queries": 5, "keys": 11, "heads": 12, "kv_heads": 4, "key_width": 8, "value_width": 7}
SIZE = "t5s11h12g4k8j7"
ONE = {**SIZES, "queries": 1, "keys": 13}
LONG = {"batch": 1, "queries": 1, "keys": 145, "heads": 6, "kv_heads": 2, "key_width": 16, "value_width": 12}


def _grouped() -> tuple[Edge, ...]:
    equal = {**SIZES, "heads": 3, "kv_heads": 3}
    one = {**SIZES, "heads": 3, "kv_heads": 1}
    return (
        edge("plain", "prefill", "t5s5h3g3k8j7", "R2", **{**equal, "keys": 5}),
        edge("grouped", "prefill", "t11s11h12g4k8j7", "R1", **{**SIZES, "queries": 11}),
        edge("grouped", "pieces", SIZE, "R1", "R2", **SIZES),
        edge("one_kv_head", "pieces", "t5s11h3g1k8j7", "R1", **one),
        edge("wide_values", "decode", "s13h12g4k6j9", "R1", **{**ONE, "key_width": 6, "value_width": 9}),
        edge("one_token", "prefill", "t1s1h12g4k8j7", "R2", **{**SIZES, "queries": 1, "keys": 1}),
        edge("other_scale", "pieces", SIZE, "R6", scale=0.17, **SIZES),
        edge("not_causal", "prefill", SIZE, "R2", causal=False, **SIZES),
    )


def _visibility() -> tuple[Edge, ...]:
    return (
        edge("window", "prefill", "t11s11w3", "R3", window=3, **{**SIZES, "queries": 11}),
        edge("window", "pieces", "t5s11w4", "R3", window=4, **SIZES),
        edge("window", "decode", "w128p17", "R3", window=128, **LONG),
        edge("window_one", "pieces", "t5s11w1", "R3", window=1, **SIZES),
        edge("window_wide", "pieces", "t5s11w11", "R3", window=11, **SIZES),
        edge("chunk", "prefill", "t11s11c4", "R4", chunk=4, **{**SIZES, "queries": 11}),
        edge("chunk", "pieces", "t5s11c3", "R4", chunk=3, **SIZES),
        edge("chunk", "decode", "s13c5", "R4", chunk=5, **ONE),
        edge("left_padding", "padded", "t5s11", "R5", batch=3, order="left", **SIZES),
        edge("right_padding", "padded", "t5s11", "R5", batch=3, order="right", **SIZES),
        edge("middle_padding", "padded", "t5s11", "R5", batch=3, order="middle", **SIZES),
        edge("left_padding_window", "padded", "t5s11w3", "R3", "R5", batch=3, order="left", window=3, **SIZES),
        edge("left_padding_chunk", "padded", "t5s11c4", "R4", "R5", batch=3, order="left", chunk=4, **SIZES),
        edge("ring", "pieces", "t5s11", "R8", order="shuffled", **SIZES),
        edge("ring_window", "decode", "s13w6", "R3", "R8", order="shuffled", window=6, **ONE),
        edge("empty_row", "padded", "t5s11", "R5", batch=3, order="empty", **SIZES),
    )


def _scores() -> tuple[Edge, ...]:
    return (
        edge("softcap", "prefill", SIZE, "R6", softcap=3.0, **SIZES),
        edge("softcap_bias", "pieces", SIZE, "R6", softcap=3.0, bias="full", **SIZES),
        edge("softcap_sink", "decode", "s13", "R6", "R7", softcap=2.5, sinks=True, **ONE),
        edge("bias", "pieces", SIZE, "R6", bias="full", **SIZES),
        edge("bias_keys", "decode", "s13", "R6", bias="keys", **ONE),
        edge("bias_selected", "pieces", SIZE, "R6", bias="selected", **SIZES),
        edge("temperature", "prefill", SIZE, "R6", temperature=True, **SIZES),
        edge("temperature_softcap", "pieces", SIZE, "R6", temperature=True, softcap=3.0, **SIZES),
        edge("temperature_bias", "pieces", SIZE, "R6", temperature=True, bias="full", **SIZES),
        edge("temperature_sink", "decode", "s13", "R6", "R7", temperature=True, sinks=True, **ONE),
        edge("temperature_chunk", "padded", "t5s11c4", "R4", "R6", temperature=True, batch=3, order="left", chunk=4, **SIZES),
        edge("sink", "prefill", SIZE, "R7", sinks=True, **SIZES),
        edge("sink_window", "pieces", "t5s11w3", "R3", "R7", sinks=True, window=3, **SIZES),
        edge("sink_window", "decode", "w128p17", "R3", "R7", sinks=True, window=128, **LONG),
        edge("sink_empty_row", "padded", "t5s11", "R5", "R7", batch=3, order="empty", sinks=True, **SIZES),
        edge("sink_left_padding", "padded", "t5s11w4", "R5", "R7", batch=3, order="left", sinks=True, window=4, **SIZES),
    )


FAMILIES = (Family(function="attention", build=attention, axes=("BTHJ",), edges=(*_grouped(), *_visibility(), *_scores())),)
