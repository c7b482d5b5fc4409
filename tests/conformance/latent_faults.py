"""Latent attention that is wrong in ways that real ones have been. Ids are those of the catalogue of bugs."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from refimpl.layers.attention import attention_logits, masked_softmax
from tests.conformance.computing import computing_in

wide = computing_in(np.float32)


def _widths(q, k_rope, weight):
    """N, P and J."""
    nope = q.shape[-1] - k_rope.shape[-1]
    return nope, k_rope.shape[-1], len(weight) // q.shape[2] - nope


def _by_head(weight, heads):
    return weight.reshape(heads, -1, weight.shape[-1])


def _with_scale(scale_of):
    """The scale is not the caller's but scale_of(q, latent, k_rope, weight)."""

    @wide
    def latent_attention(q, latent, k_rope, weight, *, scale, **options):
        own = scale_of(q, latent, k_rope, weight)
        return layers.latent_attention(q, latent, k_rope, weight, scale=float(own), **options)

    return latent_attention


def _with_rows(rows_of):
    """The rows of the weight, [H, N + J, L], are taken in the order of rows_of(rows, N)."""

    @wide
    def latent_attention(q, latent, k_rope, weight, **options):
        rows = rows_of(_by_head(weight, q.shape[2]), _widths(q, k_rope, weight)[0])
        return layers.latent_attention(q, latent, k_rope, rows.reshape(weight.shape), **options)

    return latent_attention


def _expanding_rows(rows_of):
    @wide
    def expand_latent(latent, k_rope, weight, *, heads, v_head_dim):
        rows = rows_of(_by_head(weight, heads), len(weight) // heads - v_head_dim)
        return layers.expand_latent(latent, k_rope, rows.reshape(weight.shape), heads=heads, v_head_dim=v_head_dim)

    return expand_latent


def keys_of_all_heads_first(rows, nope):
    """The first H·N rows are taken for keys, the rest for values."""
    heads, both, rank = rows.shape
    flat = rows.reshape(-1, rank)
    keys, values = flat[: heads * nope], flat[heads * nope :]
    return np.concatenate([keys.reshape(heads, nope, rank), values.reshape(heads, both - nope, rank)], axis=1)


def values_before_keys(rows, nope):
    return np.concatenate([rows[:, -nope:], rows[:, :-nope]], axis=1)


def heads_innermost(rows, nope):
    """Row h + H·i is taken for row i of head h."""
    heads, both, rank = rows.shape
    return rows.reshape(-1, rank).reshape(both, heads, rank).swapaxes(0, 1)


def low_rank_part_dropped(rows, nope):
    """What an adapter has added to the weight, here its largest component, is missing."""
    flat = rows.reshape(-1, rows.shape[-1])
    u, s, v = np.linalg.svd(flat.astype(np.float64), full_matrices=False)
    return (flat - (u[:, :1] * s[0] @ v[:1]).astype(flat.dtype)).reshape(rows.shape)


def next_head(rows, nope):
    return np.concatenate([rows[:, :nope], np.roll(rows[:, nope:], 1, axis=0)], axis=1)


def _without(*names):
    @wide
    def latent_attention(q, latent, k_rope, weight, **options):
        return layers.latent_attention(q, latent, k_rope, weight, **{k: v for k, v in options.items() if k not in names})

    return latent_attention


def _changed(change):
    """change(q, latent, k_rope, weight) gives the first three of the arguments anew."""

    @wide
    def latent_attention(q, latent, k_rope, weight, **options):
        return layers.latent_attention(*change(q, latent, k_rope, weight), weight, **options)

    return latent_attention


def rope_left_out(q, latent, k_rope, weight):
    return q, latent, np.zeros_like(k_rope)


def rope_first_in_the_query(q, latent, k_rope, weight):
    rope = k_rope.shape[-1]
    return np.concatenate([q[..., rope:], q[..., :rope]], axis=-1), latent, k_rope


def rope_of_the_first_token(q, latent, k_rope, weight):
    """The rotated part is kept once a sequence instead of once a token."""
    return q, latent, np.repeat(k_rope[:, :1], k_rope.shape[1], axis=1)


def rope_in_other_pairs(q, latent, k_rope, weight):
    """The keys come de-interleaved, the queries do not."""
    return q, latent, np.concatenate([k_rope[..., 0::2], k_rope[..., 1::2]], axis=-1)


def rope_normed(q, latent, k_rope, weight):
    """The norm of the latent is taken over the rotated part as well."""
    return q, latent, layers.rms_norm(k_rope, eps=1e-6)


def rope_shared_out(q, latent, k_rope, weight):
    """The one rotated key is divided among the heads."""
    return q, latent, k_rope / k_rope.dtype.type(max(q.shape[2], 2))


def rope_scaled_alone(q, latent, k_rope, weight):
    """A factor of the scale reaches the rotated part of a logit only."""
    nope = _widths(q, k_rope, weight)[0]
    return np.concatenate([q[..., :nope] / q.dtype.type(1.2), q[..., nope:]], axis=-1), latent, k_rope


@wide
def upper_left(q, latent, k_rope, weight, *, q_order=None, k_order=None, **options):
    if q_order is None:
        B, T, S = q.shape[0], q.shape[1], latent.shape[1]
        q_order, k_order = np.tile(np.arange(T), (B, 1)), np.tile(np.arange(S), (B, 1))
    return layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order, **options)


@wide
def padding_seen(q, latent, k_rope, weight, *, q_order=None, k_order=None, **options):
    k_order = k_order if k_order is None else np.where(k_order < 0, 0, k_order)
    return layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order, **options)


@wide
def not_a_number_where_nothing_is_seen(q, latent, k_rope, weight, *, q_order=None, k_order=None, causal=True, **options):
    y = layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order, causal=causal, **options)
    if q_order is None:
        return y
    visible = layers.attention_mask(q_order, k_order, causal=causal)
    return np.where(visible.any(axis=-1)[:, :, None, None], y, np.nan)


@wide
def uniform_where_nothing_is_seen(
    q, latent, k_rope, weight, *, scale, q_order=None, k_order=None, causal=True, temperature=None, bias=None
):
    """Hidden keys at a low number, of which a row that sees nothing makes equal weights."""
    B, T, S = q.shape[0], q.shape[1], latent.shape[1]
    if k_order is None:
        q_order, k_order = np.tile(np.arange(S - T, S), (B, 1)), np.tile(np.arange(S), (B, 1))
    v_head_dim = _widths(q, k_rope, weight)[2]
    k, v = layers.expand_latent(latent, k_rope, weight, heads=q.shape[2], v_head_dim=v_head_dim)
    logits = attention_logits(q, k, scale=scale, temperature=temperature, bias=bias)
    visible = layers.attention_mask(q_order, k_order, causal=causal)[:, None]
    weights = masked_softmax(np.where(visible, logits, -30000), np.ones_like(visible))
    return np.einsum("BHTS,BSHJ->BTHJ", weights, v)


@wide
def hidden_by_a_small_number(q, latent, k_rope, weight, *, bias=None, **options):
    """What the selection leaves out is only made unlikely."""
    bias = None if bias is None else np.maximum(bias, bias.dtype.type(-5))
    return layers.latent_attention(q, latent, k_rope, weight, bias=bias, **options)


@wide
def two_per_cent_too_large(q, latent, k_rope, weight, **options):
    return layers.latent_attention(q, latent, k_rope, weight, **options) * np.float32(1.02)


@wide
def values_not_expanded(q, latent, k_rope, weight, **options):
    """Values are the first entries of the latent itself."""
    value = _widths(q, k_rope, weight)[2]
    rows = _by_head(weight, q.shape[2]).copy()
    rows[:, -value:] = np.eye(value, latent.shape[-1], dtype=weight.dtype)
    return layers.latent_attention(q, latent, k_rope, rows.reshape(weight.shape), **options)


@wide
def rope_first_in_the_key(latent, k_rope, weight, *, heads, v_head_dim):
    k, v = layers.expand_latent(latent, k_rope, weight, heads=heads, v_head_dim=v_head_dim)
    return np.concatenate([k[..., -k_rope.shape[-1] :], k[..., : -k_rope.shape[-1]]], axis=-1), v


@wide
def rope_of_the_first_head_alone(latent, k_rope, weight, *, heads, v_head_dim):
    k, v = layers.expand_latent(latent, k_rope, weight, heads=heads, v_head_dim=v_head_dim)
    k[:, :, 1:, -k_rope.shape[-1] :] = 0
    return k, v


LATENT_FAULTS = {
    # mla-sdpa-default-scale: of the queries as they are when attention is called, absorbed or not.
    "scale of the absorbed width": (
        "latent_attention",
        _with_scale(lambda q, latent, k_rope, weight: (latent.shape[-1] + k_rope.shape[-1]) ** -0.5),
    ),
    # mla-yarn-softmax-mscale-missing, mla-v2-mscale-all-dim-lost-in-refactor
    "scale of the width alone": ("latent_attention", _with_scale(lambda q, latent, k_rope, weight: q.shape[-1] ** -0.5)),
    # mla-scale-from-hidden-over-heads: where the hidden size is that of the heads' values.
    "scale of the value width": (
        "latent_attention",
        _with_scale(lambda q, latent, k_rope, weight: _widths(q, k_rope, weight)[2] ** -0.5),
    ),
    "scale of the unrotated part": (
        "latent_attention",
        _with_scale(lambda q, latent, k_rope, weight: _widths(q, k_rope, weight)[0] ** -0.5),
    ),
    "scale on the rotated part alone": ("latent_attention", _changed(rope_scaled_alone)),
    "absorbed keys of all heads first": ("latent_attention", _with_rows(keys_of_all_heads_first)),
    "absorbed values before keys": ("latent_attention", _with_rows(values_before_keys)),
    "absorbed heads innermost": ("latent_attention", _with_rows(heads_innermost)),
    "absorbed values of the next head": ("latent_attention", _with_rows(next_head)),
    "absorbed without the adapter": ("latent_attention", _with_rows(low_rank_part_dropped)),  # mla-absorbed-drops-adapter
    "rotated part left out": ("latent_attention", _changed(rope_left_out)),
    "rotated part first in the query": ("latent_attention", _changed(rope_first_in_the_query)),
    "rotated part of the first token": ("latent_attention", _changed(rope_of_the_first_token)),
    "rotated part in other pairs": ("latent_attention", _changed(rope_in_other_pairs)),  # mla-rope-gpt-neox-style-kernel
    "rotated part normed": ("latent_attention", _changed(rope_normed)),  # mla-q-norm-after-up-proj: never the rotated key
    "rotated part divided among heads": ("latent_attention", _changed(rope_shared_out)),
    "latents causal from the upper left": ("latent_attention", upper_left),
    "latents of padding seen": ("latent_attention", padding_seen),
    "columns of latents taken for places": ("latent_attention", _without("q_order", "k_order")),
    "latents causal when asked for none": ("latent_attention", _without("causal")),
    "latents without temperature": ("latent_attention", _without("temperature")),
    "latents without bias": ("latent_attention", _without("bias")),
    "NaN where no latent is seen": ("latent_attention", not_a_number_where_nothing_is_seen),
    "uniform where no latent is seen": ("latent_attention", uniform_where_nothing_is_seen),
    "latents hidden by a small number": ("latent_attention", hidden_by_a_small_number),
    "latents for values": ("latent_attention", values_not_expanded),
    "latent attention 2 % too large": ("latent_attention", two_per_cent_too_large),
    "keys of all heads first": ("expand_latent", _expanding_rows(keys_of_all_heads_first)),
    "values before keys": ("expand_latent", _expanding_rows(values_before_keys)),
    "heads innermost": ("expand_latent", _expanding_rows(heads_innermost)),
    "expanded without the adapter": ("expand_latent", _expanding_rows(low_rank_part_dropped)),
    "rotated part first in the key": ("expand_latent", rope_first_in_the_key),
    "rotated part for the first head alone": ("expand_latent", rope_of_the_first_head_alone),
}
