"""Attention that is wrong in what a query sees, in its heads and in its soft cap."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.layers.attention import attention_logits, masked_softmax, mix_values
from refimpl.numerics import Array

wide = computing_in(np.float32)


def _places(q: Array, k: Array, q_order: Array | None, k_order: Array | None) -> tuple[Array, Array]:
    B, T, S = q.shape[0], q.shape[1], k.shape[1]
    if q_order is None or k_order is None:
        return np.tile(np.arange(S - T, S), (B, 1)), np.tile(np.arange(S), (B, 1))
    return q_order, k_order


def _attend(q: Array, k: Array, v: Array, logits: Array, visible: Array, sinks: Array | None = None) -> Array:
    return mix_values(masked_softmax(logits, visible[:, None], sinks=sinks), v)


def without(*names: str) -> Function:
    @wide
    def attention(q: Array, k: Array, v: Array, **options: Any) -> Array:
        return layers.attention(q, k, v, **{name: value for name, value in options.items() if name not in names})

    return attention


@wide
def window_one_too_long(q: Array, k: Array, v: Array, *, window: int | None = None, **options: Any) -> Array:
    return layers.attention(q, k, v, window=None if window is None else window + 1, **options)


@wide
def window_one_too_short(q: Array, k: Array, v: Array, *, window: int | None = None, **options: Any) -> Array:
    return layers.attention(q, k, v, window=None if window is None else max(window - 1, 1), **options)


@wide
def window_longer_in_prefill(q: Array, k: Array, v: Array, *, window: int | None = None, **options: Any) -> Array:
    """The mask of many tokens and the cache that one token sees keep different numbers of keys."""
    longer = window if window is None or q.shape[1] == 1 else window + 1
    return layers.attention(q, k, v, window=longer, **options)


def _chunk_by_columns(of_queries: bool) -> Function:
    """Chunks of which the keys, or the queries as well, are counted by columns."""

    @wide
    def attention(
        q: Array,
        k: Array,
        v: Array,
        *,
        chunk: int | None = None,
        bias: Array | None = None,
        q_order: Array | None = None,
        k_order: Array | None = None,
        **options: Any,
    ) -> Array:
        if chunk is not None:
            T, S = q.shape[1], k.shape[1]
            rows = np.arange(S - T, S)[None] if of_queries or q_order is None else q_order
            same = rows[:, :, None] // chunk == np.arange(S)[None, None] // chunk
            hidden = np.where(same, 0, -np.inf).astype(q.dtype)[:, None]
            bias = hidden if bias is None else bias + hidden
        if bias is not None:
            options["bias"] = bias
        return layers.attention(q, k, v, q_order=q_order, k_order=k_order, **options)

    return attention


@wide
def heads_tiled(q: Array, k: Array, v: Array, **options: Any) -> Array:
    ratio = q.shape[2] // k.shape[2]
    return layers.attention(q, np.tile(k, (1, 1, ratio, 1)), np.tile(v, (1, 1, ratio, 1)), **options)


@wide
def upper_left(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = True,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **options: Any,
) -> Array:
    if q_order is None and causal:
        B, T, S = q.shape[0], q.shape[1], k.shape[1]
        q_order, k_order = np.tile(np.arange(T), (B, 1)), np.tile(np.arange(S), (B, 1))
    return layers.attention(q, k, v, causal=causal, q_order=q_order, k_order=k_order, **options)


@wide
def softcap_before_scale(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **masking: Any,
) -> Array:
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    logits = attention_logits(q, k, scale=1.0, softcap=softcap) * q.dtype.type(scale)
    return _attend(q, k, v, logits if bias is None else logits + bias, visible, sinks)


@wide
def softcap_after_bias(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **masking: Any,
) -> Array:
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    logits = attention_logits(q, k, scale=scale, bias=bias)
    logits = logits if softcap is None else layers.soft_cap(logits, cap=softcap)
    return _attend(q, k, v, logits, visible, sinks)


@wide
def padding_seen(
    q: Array, k: Array, v: Array, *, q_order: Array | None = None, k_order: Array | None = None, **options: Any
) -> Array:
    if k_order is not None:
        k_order = np.where(k_order < 0, 0, k_order)
    return layers.attention(q, k, v, q_order=q_order, k_order=k_order, **options)


@wide
def columns_for_places(
    q: Array, k: Array, v: Array, *, q_order: Array | None = None, k_order: Array | None = None, **options: Any
) -> Array:
    return layers.attention(q, k, v, **options)


@wide
def uniform_where_nothing_is_seen(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **masking: Any,
) -> Array:
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    logits = attention_logits(q, k, scale=scale, softcap=softcap, bias=bias)
    return _attend(q, k, v, np.where(visible[:, None], logits, -30000), np.ones_like(visible), sinks)


@wide
def not_a_number_where_nothing_is_seen(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **m: Any,
) -> Array:
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **m)
    y = layers.attention(q, k, v, scale=scale, softcap=softcap, sinks=sinks, bias=bias, q_order=q_order, k_order=k_order, **m)
    return np.where(np.asarray(visible.any(axis=-1))[:, :, None, None], y, np.nan)


@wide
def not_a_number_from_an_empty_split(
    q: Array, k: Array, v: Array, *, q_order: Array | None = None, k_order: Array | None = None, **options: Any
) -> Array:
    """Half of the keys after the other; a half that shows nothing spoils the row."""
    y = layers.attention(q, k, v, q_order=q_order, k_order=k_order, **options)
    masking = {name: options[name] for name in ("causal", "window", "chunk") if name in options}
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    half = max(k.shape[1] // 2, 1)
    lost = ~visible[..., :half].any(axis=-1) | (k.shape[1] > half) & ~visible[..., half:].any(axis=-1)
    return np.where(lost[:, :, None, None], np.nan, y)


@wide
def two_per_cent_too_large(q: Array, k: Array, v: Array, **options: Any) -> Array:
    return layers.attention(q, k, v, **options) * np.float32(1.02)


MUTANTS = (
    layer(
        "swa-window-plus-one-fa",
        "attention",
        window_one_too_long,
        "A window of W shows W keys before the query's own, as of a kernel whose bounds include both ends.",
        "swa-window-plus-one-bridge",
    ),
    layer("window-one-too-short", "attention", window_one_too_short, "A window of W shows W - 1 keys."),
    layer(
        "swa-mask-vs-rotating-cache-mismatch",
        "attention",
        window_longer_in_prefill,
        "Several tokens at once see W + 1 keys, a single one sees the W that the cache has kept.",
    ),
    layer(
        "swa-window-dropped-on-sdpa",
        "attention",
        without("window"),
        "The window gets lost on the way to the kernel: all earlier keys are seen.",
    ),
    layer("chunk-ignored", "attention", without("chunk"), "Keys of earlier chunks are seen."),
    layer(
        "chunked-mask-left-padding",
        "attention",
        _chunk_by_columns(of_queries=True),
        "Chunks are counted by columns, padding included.",
    ),
    layer(
        "chunked-mask-cumulative-vs-truncated",
        "attention",
        _chunk_by_columns(of_queries=False),
        "The chunk of a key is that of its column in a cache that has dropped the keys before.",
    ),
    layer(
        "sink-kernel-unreachable",
        "attention",
        without("sinks"),
        "The path with sinks is never taken.",
    ),
    layer("softcap-missing", "attention", without("softcap"), "The scores are not capped.", "attn-softcap-wrong"),
    layer(
        "softcap-before-scale",
        "attention",
        softcap_before_scale,
        "The raw products are capped, then scaled.",
        "attn-softcap-wrong",
    ),
    layer(
        "softcap-after-bias",
        "attention",
        softcap_after_bias,
        "The cap is taken of the scores with what is added to them.",
        "attn-softcap-wrong",
    ),
    layer("attention-bias-dropped", "attention", without("bias"), "What is to be added to the scores is not."),
    layer(
        "llama4-qknorm-before-rope-and-no-temperature",
        "attention",
        without("temperature"),
        "Scores are not multiplied by the temperature of the query's position.",
    ),
    layer(
        "heads-tiled",
        "attention",
        heads_tiled,
        "Query head h reads key head h mod G, not the one of its group.",
        "mla-kv-group-index-decomposition",
    ),
    layer(
        "causal-mask-top-left-with-cache",
        "attention",
        upper_left,
        "Queries that follow cached keys are masked as though they were the first.",
        "causal-mask-oracle-wrong-alignment",
    ),
    layer(
        "causality-ignored-when-asked-for-none",
        "attention",
        without("causal"),
        "The mask is causal where the caller asks for none.",
    ),
    layer("padding-seen", "attention", padding_seen, "Padding is a key like any other."),
    layer("columns-taken-for-places", "attention", columns_for_places, "Which keys are earlier is read off their columns."),
    layer(
        "uniform-where-nothing-is-seen",
        "attention",
        uniform_where_nothing_is_seen,
        "Hidden scores are a low number, so that a row in which all are hidden averages the values.",
    ),
    layer(
        "mask-fill-overflow-to-inf",
        "attention",
        not_a_number_where_nothing_is_seen,
        "A row in which every key is hidden is NaN.",
        "causal-alignment-when-q-longer",
    ),
    layer(
        "splitkv-empty-split-nan",
        "attention",
        not_a_number_from_an_empty_split,
        "A part of the keys of which a query sees none makes NaN when the parts are merged.",
    ),
    layer("attention-2-per-cent-too-large", "attention", two_per_cent_too_large, "Every output is 2 % too large."),
)
