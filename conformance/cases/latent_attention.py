"""Latent attention: half of what points at a key is in its latent and half in its rotated part, and no two sizes are equal.

Rows of a weight that are read in another order, a rotated part that is left out or taken for the other one, and another scale
all change which key is found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.cases.attention import biases, lift
from conformance.cases.places import places
from conformance.family import Edge, Family, Inputs, Values, edge
from refimpl.numerics import Array


def latent_attention(
    values: Values,
    *,
    batch: int = 2,
    queries: int,
    keys: int,
    heads: int,
    rank: int,
    nope: int,
    rope: int,
    value_width: int,
    scale: float | None = None,
    causal: bool = True,
    temperature: bool = False,
    bias: str | None = None,
    order: str | None = None,
) -> Inputs:
    """order: as in `places`, None leaves the orders away. bias: as in `cases.attention.biases`.

    temperature: of each query its own, between 0.5 and 2.
    """
    scale = (nope + rope) ** -0.5 if scale is None else scale
    q_order, k_order = places(values, batch, queries, keys, order or "plain")
    pull = lift(q_order, k_order, causal=causal, bias=bias) / (2 * scale)
    weight = values.standard_normal((heads, nope + value_width, rank)) / rank**0.5
    # A query has a direction in the latent space and one of its rotated part, which all heads follow.
    towards = values.standard_normal((batch, queries, rank))
    turned = values.standard_normal((batch, queries, rope))
    q_nope = np.einsum("HNL,BTL->BTHN", weight[:, :nope], towards)
    q_nope *= nope / np.maximum(np.sum(q_nope**2, axis=-1, keepdims=True), nope / 4)
    q_rope = np.repeat((turned / np.sqrt(np.mean(turned**2, axis=-1, keepdims=True)))[:, :, None], heads, axis=2)
    q = np.concatenate([q_nope, q_rope], axis=-1)
    q += 0.3 * values.standard_normal(q.shape)
    latent = 0.5 * values.standard_normal((batch, keys, rank))
    latent += np.einsum("BTS,BTL->BSL", pull, towards) / nope
    k_rope = 0.5 * values.standard_normal((batch, keys, rope))
    k_rope += np.einsum("BTS,BTP->BSP", pull, q_rope[:, :, 0]) / rope
    latent[k_order < 0] *= 2
    arrays: dict[str, Any] = {}
    if temperature:
        arrays["temperature"] = values.uniform(0.5, 2, (batch, queries))
    if bias is not None:
        arrays["bias"] = biases(values, bias, heads, q_order, k_order)
    if order is not None:
        arrays |= {"q_order": q_order, "k_order": k_order}
    arguments = {"q": q, "latent": latent, "k_rope": k_rope, "weight": weight.reshape(-1, rank)}
    return Inputs(arguments, {"scale": scale, **({} if causal else {"causal": False}), **arrays})


def expand_latent(
    values: Values, *, batch: int = 2, keys: int, heads: int, rank: int, nope: int, rope: int, value_width: int
) -> Inputs:
    """Rows of the weight of a size of their own, so that any two that are exchanged show."""
    sizes = values.permutation(np.linspace(0.5, 2, heads * (nope + value_width)))
    weight: Array = values.standard_normal((len(sizes), rank)) * sizes[:, None] / rank**0.5
    arguments = {
        "latent": values.standard_normal((batch, keys, rank)),
        "k_rope": values.standard_normal((batch, keys, rope)),
        "weight": weight,
    }
    return Inputs(arguments, {"heads": heads, "v_head_dim": value_width})


WIDTHS = {"heads": 3, "rank": 9, "nope": 6, "rope": 4, "value_width": 7}
SIZES = {"queries": 5, "keys": 11, **WIDTHS}
SIZE = "t5s11h3l9n6p4j7"
ONE = {**SIZES, "queries": 1, "keys": 13}
PADDED = {**SIZES, "batch": 3}
LONG = {"batch": 1, "queries": 1, "keys": 145, "heads": 5, "rank": 24, "nope": 12, "rope": 6, "value_width": 10}
# The proportions of the releases: a latent far wider than a head, a rotated part of half the unrotated one.
RELEASED = {"batch": 1, "queries": 1, "keys": 19, "heads": 3, "rank": 64, "nope": 16, "rope": 8, "value_width": 16}


def _forms() -> tuple[Edge, ...]:
    return (
        edge("plain", "prefill", "t5s5h3l9n6p4j7", "R1", "R2", **{**SIZES, "keys": 5}),
        edge("plain", "pieces", SIZE, "R1", "R4", **SIZES),
        edge("plain", "decode", "s13", "R1", **ONE),
        edge("long", "decode", "s145h5l24n12p6j10", "R1", **LONG),
        edge("one_token", "prefill", "t1s1", "R1", **{**SIZES, "queries": 1, "keys": 1}),
        edge("one_head", "pieces", "t5s11h1", "R1", **{**SIZES, "heads": 1}),
        edge("square", "pieces", "t5s11n6p6j6", "R1", **{**SIZES, "rope": 6, "value_width": 6}),
        edge("wide_rope", "pieces", "t5s11n4p8", "R2", **{**SIZES, "nope": 4, "rope": 8}),
        edge("narrow_latent", "pieces", "t5s11l5", "R2", **{**SIZES, "rank": 5}),
        edge("released", "decode", "s19h3l64n16p8j16", "R3", **RELEASED),
        edge("other_scale", "pieces", SIZE, "R3", scale=0.17, **SIZES),
        edge("yarn_scale", "decode", "s13", "R3", scale=1.87 * 10**-0.5, **ONE),
    )


def _visibility() -> tuple[Edge, ...]:
    return (
        edge("not_causal", "prefill", SIZE, "R4", causal=False, **SIZES),
        edge("left_padding", "padded", "t5s11", "R4", order="left", **PADDED),
        edge("right_padding", "padded", "t5s11", "R4", order="right", **PADDED),
        edge("middle_padding", "padded", "t5s11", "R4", order="middle", **PADDED),
        edge("shuffled", "pieces", "t5s11", "R4", order="shuffled", **SIZES),
        edge("empty_row", "padded", "t5s11", "R4", order="empty", **PADDED),
    )


def _scores() -> tuple[Edge, ...]:
    return (
        edge("temperature", "prefill", SIZE, "R4", temperature=True, **SIZES),
        edge("temperature_bias", "pieces", SIZE, "R4", temperature=True, bias="full", **SIZES),
        edge("temperature_left_padding", "padded", "t5s11", "R4", temperature=True, order="left", **PADDED),
        edge("bias", "pieces", SIZE, "R4", bias="full", **SIZES),
        edge("bias_keys", "decode", "s13", "R4", bias="keys", **ONE),
        edge("selected", "pieces", SIZE, "R4", bias="selected", **SIZES),
        edge("selected", "decode", "s13", "R4", bias="selected", **ONE),
        edge("selected_left_padding", "padded", "t5s11", "R4", bias="selected", order="left", **PADDED),
        edge("selected_empty_row", "padded", "t5s11", "R4", bias="selected", order="empty", **PADDED),
    )


def _expansions() -> tuple[Edge, ...]:
    sizes = {"keys": 5, **WIDTHS}
    return (
        edge("plain", "any", "b2s5h3l9n6p4j7", "R1", "R2", "R3", **sizes),
        edge("wide_values", "any", "b2s5n4p6j8", "R1", "R2", **{**sizes, "nope": 4, "rope": 6, "value_width": 8}),
        edge("square", "any", "b2s5n6p6j6", "R1", "R2", **{**sizes, "rope": 6, "value_width": 6}),
        edge("one_head", "any", "b2s5h1", "R1", **{**sizes, "heads": 1}),
        edge("one_token", "decode", "b1s1h3l9n6p4j7", "R1", **{**sizes, "batch": 1, "keys": 1}),
    )


FAMILIES = (
    Family(function="expand_latent", build=expand_latent, axes=("BSHK", "BSHJ"), edges=_expansions()),
    Family(function="latent_attention", build=latent_attention, axes=("BTHJ",), edges=(*_forms(), *_visibility(), *_scores())),
)
