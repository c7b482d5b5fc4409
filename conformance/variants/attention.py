"""Softmax attention in other orders: in blocks, in other units, with the scale elsewhere, one key after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.variants.variant import float32, layer, rounded
from refimpl import layers
from refimpl.layers.attention import attention_logits, default_places, mix_values
from refimpl.numerics import Array


def places(q: Array, k: Array, q_order: Array | None, k_order: Array | None) -> tuple[Array, Array]:
    """The places of queries and keys, by default the last of all keys."""
    return default_places("attention", q.shape[0], q.shape[1], k.shape[1], q_order, k_order)


def _online(block: int) -> Callable[..., Any]:
    """A running softmax over so many keys at a time."""

    def attention(q: Array, k: Array, v: Array, **options: Any) -> Array:
        return layers.attention_online(q, k, v, block=block, **options)

    return attention


@rounded
def _scaled_query(q: Array, k: Array, v: Array, *, scale: float, **options: Any) -> Array:
    return layers.attention(q * q.dtype.type(scale), k, v, scale=1.0, **options)


@rounded
def _tempered_query(
    q: Array, k: Array, v: Array, *, temperature: Array | None = None, softcap: float | None = None, **options: Any
) -> Array:
    """With a softcap the temperature stays where it is."""
    if temperature is not None and softcap is None:
        q, temperature = q * temperature[:, :, None, None], None
    return layers.attention(q, k, v, temperature=temperature, softcap=softcap, **options)


@float32
def _one_by_one(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    softcap: float | None = None,
    temperature: Array | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **masking: Any,
) -> Array:
    q_order, k_order = places(q, k, q_order, k_order)
    visible = layers.attention_mask(q_order, k_order, **masking)[:, None]
    ratio = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, ratio, axis=2), np.repeat(v, ratio, axis=2)
    logits = np.zeros((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), q.dtype)
    for entry in range(q.shape[-1]):
        logits += q[..., entry].transpose(0, 2, 1)[..., None] * k[..., entry].transpose(0, 2, 1)[:, :, None]
    logits = logits * q.dtype.type(scale)
    logits = logits if softcap is None else layers.soft_cap(logits, cap=softcap)
    logits = logits if temperature is None else logits * temperature[:, None, :, None]
    logits = np.where(visible, logits if bias is None else logits + bias, q.dtype.type(-1e4))
    top = logits.max(axis=-1, keepdims=True)
    top = top if sinks is None else np.maximum(top, sinks[:, None, None])
    weights = np.exp(logits - top) * visible
    total = np.zeros(top.shape, q.dtype) if sinks is None else np.exp(sinks[:, None, None] - top)
    mixed = np.zeros((*logits.shape[:3], v.shape[3]), q.dtype)
    for key in range(k.shape[1]):
        total = total + weights[..., key : key + 1]
        mixed += weights[..., key : key + 1] * v[:, key].transpose(0, 1, 2)[:, :, None]
    return (mixed / np.where(total == 0, 1, total)).transpose(0, 2, 1, 3)


@float32
def _in_base_two(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    softcap: float | None = None,
    temperature: Array | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **masking: Any,
) -> Array:
    """The change of base is folded into the scale where nothing stands between; the sink changes with the scores."""
    visible = layers.attention_mask(*places(q, k, q_order, k_order), **masking)[:, None]
    base = float(np.log2(np.e))
    if softcap is None and bias is None:
        logits = attention_logits(q, k, scale=scale * base, temperature=temperature)
    else:
        scores = attention_logits(q, k, scale=scale, softcap=softcap, temperature=temperature, bias=bias)
        logits = scores * q.dtype.type(base)
    logits = np.where(visible, logits, -np.inf)
    top = np.max(logits, axis=-1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        sinks = (sinks * q.dtype.type(base))[:, None, None]
        top = np.maximum(top, sinks)
    top = np.where(np.isfinite(top), top, q.dtype.type(0))
    weights = np.exp2(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    total = total if sinks is None else total + np.exp2(sinks - top)
    return mix_values(weights, v) / np.where(total == 0, 1, total).transpose(0, 2, 1, 3)


@float32
def _head_by_head(
    q: Array, k: Array, v: Array, *, sinks: Array | None = None, bias: Array | None = None, **options: Any
) -> Array:
    ratio, heads = q.shape[2] // k.shape[2], []
    for head in range(q.shape[2]):
        own, group = slice(head, head + 1), slice(head // ratio, head // ratio + 1)
        beside: dict[str, Any] = {} if sinks is None else {"sinks": sinks[own]}
        if bias is not None:
            shaped = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
            beside["bias"] = shaped[:, own] if shaped.shape[1] > 1 else shaped
        heads.append(layers.attention(q[:, :, own], k[:, :, group], v[:, :, group], **beside, **options))
    return np.concatenate(heads, axis=2)


VARIANTS = (
    *(
        layer(
            f"online-softmax-in-blocks-of-{block}",
            f"A running softmax in float32 over blocks of {block} keys.",
            attention=float32(_online(block)),
        )
        for block in (1, 3, 16, 64)
    ),
    layer(
        "online-softmax-rounded",
        "A running softmax over blocks of 64 keys, whose state is rounded to the model's format after each.",
        attention=rounded(_online(64)),
    ),
    layer("scale-on-the-query", "The scale multiplies the query, which is rounded again.", attention=_scaled_query),
    layer(
        "temperature-on-the-query", "The temperature multiplies the query, which is rounded again.", attention=_tempered_query
    ),
    layer(
        "one-key-after-the-other",
        "Scores are summed entry by entry, values key by key, and the division comes last.",
        attention=_one_by_one,
    ),
    layer("softmax-in-base-two", "exp2 of scores whose scale has log2(e) in it.", attention=_in_base_two),
    layer("one-head-after-the-other", "Every query head is a product of its own.", attention=_head_by_head),
)
