"""Attention whose keys lie elsewhere: read backwards, in slots of a ring, in pages; or in splits that are merged at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.variants.attention import places
from conformance.variants.variant import float32, layer
from refimpl import layers
from refimpl.layers.attention import attention_logits
from refimpl.numerics import Array

PAGE = 4


def _stored(arrange: Callable[[Array], Array]) -> Callable[..., Any]:
    """Keys, values and their bias in the columns that arrange(k_order) names, one row of them for each text."""

    @float32
    def attention(
        q: Array,
        k: Array,
        v: Array,
        *,
        q_order: Array | None = None,
        k_order: Array | None = None,
        bias: Array | None = None,
        **options: Any,
    ) -> Array:
        q_order, k_order = places(q, k, q_order, k_order)
        columns = arrange(np.asarray(k_order))
        k, v = (np.take_along_axis(each, columns[:, :, None, None], axis=1) for each in (k, v))
        if bias is not None:
            whole = np.broadcast_to(bias, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
            options["bias"] = np.take_along_axis(whole, columns[:, None, None], axis=3)
        stored = np.take_along_axis(np.asarray(k_order), columns, axis=1)
        return layers.attention(q, k, v, q_order=q_order, k_order=stored, **options)

    return attention


def _backwards(k_order: Array) -> Array:
    return np.broadcast_to(np.arange(k_order.shape[1])[::-1], k_order.shape)


def _in_a_ring(k_order: Array) -> Array:
    """Place p in slot p modulo the number of slots, from the middle of a turn on."""
    slots = max(k_order.shape[1], 1)
    return np.argsort((k_order + slots // 2) % slots, axis=1, kind="stable")


def _in_pages(k_order: Array) -> Array:
    """Pages of `PAGE` columns, in an order of their own for each text."""
    pages = np.arange(k_order.shape[1]) // PAGE
    generator = np.random.default_rng(5)
    return np.stack([np.argsort(generator.permutation(k_order.shape[1] + 1)[pages], kind="stable") for _ in k_order])


def _in_splits(count: int, *, narrow: bool) -> Callable[..., Any]:
    """`count` parts of the keys, each attended to alone and merged by the logarithms of their sums.

    narrow: what a part results in is rounded to the model's format before it is merged.
    """

    def attention(
        q: Array,
        k: Array,
        v: Array,
        *,
        scale: float,
        sinks: Array | None = None,
        q_order: Array | None = None,
        k_order: Array | None = None,
        bias: Array | None = None,
        softcap: float | None = None,
        temperature: Array | None = None,
        **masking: Any,
    ) -> Array:
        dtype, wide = q.dtype, np.dtype(np.float64 if q.dtype == np.float64 else np.float32)
        q, k, v = (each.astype(wide) for each in (q, k, v))
        sinks, bias, temperature = (None if each is None else each.astype(wide) for each in (sinks, bias, temperature))
        q_order, k_order = places(q, k, q_order, k_order)
        outputs, sums = [], []
        for part in np.array_split(np.arange(k.shape[1]), count):
            own: dict[str, Any] = {"scale": scale, "softcap": softcap, "temperature": temperature}
            if bias is not None:
                own["bias"] = np.broadcast_to(bias, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))[..., part]
            y = layers.attention(q, k[:, part], v[:, part], q_order=q_order, k_order=k_order[:, part], **own, **masking)
            visible = layers.attention_mask(q_order, k_order[:, part], **masking)[:, None]
            outputs.append(y.astype(dtype).astype(wide) if narrow else y)
            sums.append(_log_sum(np.where(visible, attention_logits(q, k[:, part], **own), -np.inf)))
        if sinks is not None:
            outputs.append(np.zeros_like(outputs[0]))
            sums.append(np.broadcast_to(sinks[:, None, None], sums[0].shape))
        return _merged(outputs, sums).astype(dtype)

    return attention


def _log_sum(logits: Array) -> Array:
    """[B, H, T, 1]; -inf where nothing is seen."""
    top = np.max(logits, axis=-1, keepdims=True, initial=-np.inf)
    finite = np.where(np.isfinite(top), top, top.dtype.type(0))
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(logits - finite), axis=-1, keepdims=True)) + finite


def _merged(outputs: list[Array], sums: list[Array]) -> Array:
    top = np.max(sums, axis=0)
    weights = np.exp(np.array(sums) - np.where(np.isfinite(top), top, top.dtype.type(0)))
    total = weights.sum(axis=0)
    shares = weights / np.where(total == 0, total.dtype.type(1), total)
    return np.sum(np.array(outputs) * shares.transpose(0, 1, 3, 2, 4), axis=0)


def _sink_by_log_sum(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    sinks: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    bias: Array | None = None,
    softcap: float | None = None,
    temperature: Array | None = None,
    **masking: Any,
) -> Array:
    shared = {"q_order": q_order, "k_order": k_order, "softcap": softcap, "temperature": temperature, "bias": bias, **masking}
    y = float32(layers.attention)(q, k, v, scale=scale, **shared)
    if sinks is None:
        return y
    wide = np.float64 if q.dtype == np.float64 else np.float32
    bias, temperature = (None if each is None else each.astype(wide) for each in (bias, temperature))
    visible = layers.attention_mask(*places(q, k, q_order, k_order), **masking)[:, None]
    scores: dict[str, Any] = {"scale": scale, "softcap": softcap, "temperature": temperature, "bias": bias}
    logits = attention_logits(q.astype(wide), k.astype(wide), **scores)
    total = np.sum(np.exp(np.where(visible, logits - sinks.astype(wide)[:, None, None], -np.inf)), axis=-1)
    return (y.astype(wide) * (total / (1 + total)).transpose(0, 2, 1)[..., None]).astype(q.dtype)


VARIANTS = (
    layer("keys-from-last-to-first", "Keys are read from the last to the first.", attention=_stored(_backwards)),
    layer("keys-in-slots-of-a-ring", "Keys lie in the slots of a ring that has turned.", attention=_stored(_in_a_ring)),
    layer("keys-in-pages", "Keys lie in pages, in another order for each text.", attention=_stored(_in_pages)),
    *(
        layer(
            f"keys-in-{count}-splits",
            f"{count} parts of the keys, merged by the logarithms of their sums; the sink is a part of its own.",
            attention=_in_splits(count, narrow=False),
        )
        for count in (2, 3, 7)
    ),
    layer(
        "keys-in-splits-that-are-rounded",
        "The results of 3 parts of the keys are rounded to the model's format, and merged in float32.",
        attention=_in_splits(3, narrow=True),
    ),
    layer(
        "sink-by-the-log-sum",
        "The sink shrinks the rounded result by sigmoid(log-sum-exp - sink), and rounds it again.",
        attention=_sink_by_log_sum,
    ),
)
