"""Latent attention that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.latent_rows import (
    by_head,
    heads_innermost,
    keys_of_all_heads_first,
    low_rank_part_dropped,
    values_before_keys,
)
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.layers.attention import attention_logits, masked_softmax
from refimpl.numerics import Array

wide = computing_in(np.float32)


def _widths(q: Array, k_rope: Array, weight: Array) -> Any:
    """N, P and J."""
    nope = q.shape[-1] - k_rope.shape[-1]
    return nope, k_rope.shape[-1], len(weight) // q.shape[2] - nope


def _with_scale(scale_of: Callable[..., Any]) -> Function:
    """The scale is not the caller's but scale_of(q, latent, k_rope, weight)."""

    @wide
    def latent_attention(q: Array, latent: Array, k_rope: Array, weight: Array, *, scale: float, **options: Any) -> Array:
        own = scale_of(q, latent, k_rope, weight)
        return layers.latent_attention(q, latent, k_rope, weight, scale=float(own), **options)

    return latent_attention


def _with_rows(rows_of: Callable[..., Any]) -> Function:
    """The rows of the weight, [H, N + J, L], are taken in the order of rows_of(rows, N)."""

    @wide
    def latent_attention(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
        rows = rows_of(by_head(weight, q.shape[2]), _widths(q, k_rope, weight)[0])
        return layers.latent_attention(q, latent, k_rope, rows.reshape(weight.shape), **options)

    return latent_attention


def next_head(rows: Array, nope: int) -> Array:
    return np.concatenate([rows[:, :nope], np.roll(rows[:, nope:], 1, axis=0)], axis=1)


def _without(*names: str) -> Function:
    @wide
    def latent_attention(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
        return layers.latent_attention(q, latent, k_rope, weight, **{k: v for k, v in options.items() if k not in names})

    return latent_attention


def _changed(change: Callable[..., Any]) -> Function:
    """change(q, latent, k_rope, weight) gives the first three of the arguments anew."""

    @wide
    def latent_attention(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
        q, latent, k_rope = change(q, latent, k_rope, weight)
        return layers.latent_attention(q, latent, k_rope, weight, **options)

    return latent_attention


def rope_left_out(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    return q, latent, np.zeros_like(k_rope)


def rope_first_in_the_query(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    rope = k_rope.shape[-1]
    return np.concatenate([q[..., rope:], q[..., :rope]], axis=-1), latent, k_rope


def rope_of_the_first_token(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    """The rotated part is kept once a sequence instead of once a token."""
    return q, latent, np.repeat(k_rope[:, :1], k_rope.shape[1], axis=1)


def rope_in_other_pairs(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    """The keys come de-interleaved, the queries do not."""
    return q, latent, np.concatenate([k_rope[..., 0::2], k_rope[..., 1::2]], axis=-1)


def rope_normed(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    """The norm of the latent is taken over the rotated part as well."""
    return q, latent, layers.rms_norm(k_rope, eps=1e-6)


def rope_shared_out(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    """The one rotated key is divided among the heads."""
    return q, latent, k_rope / k_rope.dtype.type(max(q.shape[2], 2))


def rope_scaled_alone(q: Array, latent: Array, k_rope: Array, weight: Array) -> Any:
    """A factor of the scale reaches the rotated part of a logit only."""
    nope = _widths(q, k_rope, weight)[0]
    return np.concatenate([q[..., :nope] / q.dtype.type(1.2), q[..., nope:]], axis=-1), latent, k_rope


@wide
def upper_left(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **options: Any,
) -> Array:
    if q_order is None:
        B, T, S = q.shape[0], q.shape[1], latent.shape[1]
        q_order, k_order = np.tile(np.arange(T), (B, 1)), np.tile(np.arange(S), (B, 1))
    return layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order, **options)


@wide
def padding_seen(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **options: Any,
) -> Array:
    k_order = k_order if k_order is None else np.where(k_order < 0, 0, k_order)
    return layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order, **options)


@wide
def not_a_number_where_nothing_is_seen(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    q_order: Array | None = None,
    k_order: Array | None = None,
    causal: bool = True,
    **options: Any,
) -> Array:
    y = layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order, causal=causal, **options)
    if q_order is None or k_order is None:
        return y
    visible = layers.attention_mask(q_order, k_order, causal=causal)
    return np.where(np.asarray(visible.any(axis=-1))[:, :, None, None], y, np.nan)


@wide
def uniform_where_nothing_is_seen(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    scale: float,
    q_order: Array | None = None,
    k_order: Array | None = None,
    causal: bool = True,
    temperature: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Hidden keys at a low number, of which a row that sees nothing makes equal weights."""
    B, T, S = q.shape[0], q.shape[1], latent.shape[1]
    if q_order is None or k_order is None:
        q_order, k_order = np.tile(np.arange(S - T, S), (B, 1)), np.tile(np.arange(S), (B, 1))
    v_head_dim = _widths(q, k_rope, weight)[2]
    k, v = layers.expand_latent(latent, k_rope, weight, heads=q.shape[2], v_head_dim=v_head_dim)
    logits = attention_logits(q, k, scale=scale, temperature=temperature, bias=bias)
    visible = layers.attention_mask(q_order, k_order, causal=causal)[:, None]
    weights = masked_softmax(np.where(visible, logits, -30000), np.ones_like(visible))
    return np.einsum("BHTS,BSHJ->BTHJ", weights, v)


@wide
def hidden_by_a_small_number(
    q: Array, latent: Array, k_rope: Array, weight: Array, *, bias: Array | None = None, **options: Any
) -> Array:
    """What the selection leaves out is only made unlikely."""
    bias = None if bias is None else np.maximum(bias, bias.dtype.type(-5))
    return layers.latent_attention(q, latent, k_rope, weight, bias=bias, **options)


@wide
def two_per_cent_too_large(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
    return layers.latent_attention(q, latent, k_rope, weight, **options) * np.float32(1.02)


@wide
def values_not_expanded(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
    """Values are the first entries of the latent itself."""
    value = _widths(q, k_rope, weight)[2]
    rows = by_head(weight, q.shape[2]).copy()
    rows[:, -value:] = np.eye(value, latent.shape[-1], dtype=weight.dtype)
    return layers.latent_attention(q, latent, k_rope, rows.reshape(weight.shape), **options)


@wide
def read_with_another_scale(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
    """Latents are stored as they are and multiplied by a scale when they are read for the scores, not for the values."""
    rows = by_head(weight, q.shape[2]).copy()
    rows[:, : _widths(q, k_rope, weight)[0]] *= weight.dtype.type(0.5)
    return layers.latent_attention(q, latent, k_rope, rows.reshape(weight.shape), **options)


LATENT = "latent_attention"
MUTANTS = tuple(
    layer(id, function, faulty, says, *reports)
    for id, function, faulty, says, *reports in (
        (
            "mla-sdpa-default-scale",
            LATENT,
            _with_scale(lambda q, latent, k_rope, weight: (latent.shape[-1] + k_rope.shape[-1]) ** -0.5),
            "The scale is left to a kernel, which takes the width of the absorbed queries.",
        ),
        (
            "mla-yarn-softmax-mscale-missing",
            LATENT,
            _with_scale(lambda q, latent, k_rope, weight: q.shape[-1] ** -0.5),
            "The scale is that of the width, without the factor of YaRN.",
            "mla-v2-mscale-all-dim-lost-in-refactor",
        ),
        (
            "scale-of-the-value-width",
            LATENT,
            _with_scale(lambda q, latent, k_rope, weight: _widths(q, k_rope, weight)[2] ** -0.5),
            "The scale is that of the width of a value.",
        ),
        (
            "scale-of-the-unrotated-part",
            LATENT,
            _with_scale(lambda q, latent, k_rope, weight: _widths(q, k_rope, weight)[0] ** -0.5),
            "The scale is that of the part which is not rotated.",
        ),
        (
            "scale-on-the-rotated-part-alone",
            LATENT,
            _changed(rope_scaled_alone),
            "A factor of the scale reaches the rotated part alone.",
        ),
        (
            "absorbed-keys-of-all-heads-first",
            LATENT,
            _with_rows(keys_of_all_heads_first),
            "The up-projection is read as all keys, then all values.",
        ),
        ("absorbed-values-before-keys", LATENT, _with_rows(values_before_keys), "Of each head's rows the values come first."),
        ("absorbed-heads-innermost", LATENT, _with_rows(heads_innermost), "Neighbouring rows belong to different heads."),
        ("absorbed-values-of-the-next-head", LATENT, _with_rows(next_head), "Values are made for the next head."),
        (
            "mla-absorbed-drops-adapter",
            LATENT,
            _with_rows(low_rank_part_dropped),
            "The absorbed matrices are those of the base, without what an adapter adds.",
        ),
        ("rotated-part-left-out", LATENT, _changed(rope_left_out), "Scores lack the rotated part."),
        (
            "rotated-part-first-in-the-query",
            LATENT,
            _changed(rope_first_in_the_query),
            "The rotated part of a query is taken from its front.",
        ),
        (
            "rotated-part-of-the-first-token",
            LATENT,
            _changed(rope_of_the_first_token),
            "All tokens share the rotated key of the first.",
        ),
        (
            "mla-rope-gpt-neox-style-kernel",
            LATENT,
            _changed(rope_in_other_pairs),
            "Rotated keys come in halves where the queries come in neighbours.",
        ),
        (
            "rotated-part-normed",
            LATENT,
            _changed(rope_normed),
            "The norm of the latent reaches over the rotated key.",
            "mla-q-norm-after-up-proj",
        ),
        (
            "rotated-part-divided-among-heads",
            LATENT,
            _changed(rope_shared_out),
            "The one rotated key is divided by the number of heads.",
        ),
        (
            "latents-causal-from-the-upper-left",
            LATENT,
            upper_left,
            "Queries that follow cached latents are masked as though they were the first.",
        ),
        ("latents-of-padding-seen", LATENT, padding_seen, "Padding is a latent like any other."),
        (
            "columns-of-latents-taken-for-places",
            LATENT,
            _without("q_order", "k_order"),
            "Which latents are earlier is read off their columns.",
        ),
        (
            "latents-causal-when-asked-for-none",
            LATENT,
            _without("causal"),
            "The mask is causal where the caller asks for none.",
        ),
        ("latents-without-temperature", LATENT, _without("temperature"), "Scores are not multiplied by the temperature."),
        ("latents-without-bias", LATENT, _without("bias"), "What is to be added to the scores is not."),
        (
            "nan-where-no-latent-is-seen",
            LATENT,
            not_a_number_where_nothing_is_seen,
            "A row in which every latent is hidden is NaN.",
        ),
        (
            "uniform-where-no-latent-is-seen",
            LATENT,
            uniform_where_nothing_is_seen,
            "A row in which every latent is hidden averages the values.",
        ),
        (
            "latents-hidden-by-a-small-number",
            LATENT,
            hidden_by_a_small_number,
            "What the selection leaves out is only made unlikely.",
        ),
        ("latents-for-values", LATENT, values_not_expanded, "Values are the latents themselves."),
        ("latent-attention-2-per-cent-too-large", LATENT, two_per_cent_too_large, "Every output is 2 % too large."),
        (
            "fp8-mla-write-read-scale-mismatch",
            LATENT,
            read_with_another_scale,
            "Cached latents are read with a scale that they were not written with, and for the scores only.",
        ),
    )
)
