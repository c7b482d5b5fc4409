"""Latent attention expanded, absorbed by halves, online, backwards; with its factors elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.backends import numpy as specification
from conformance.variants.variant import float32, layer, rounded
from refimpl import layers
from refimpl.layers.attention import default_places, masked_softmax
from refimpl.numerics import Array


def _places(q: Array, latent: Array, q_order: Array | None, k_order: Array | None) -> tuple[Array, Array]:
    return default_places("latent_attention", q.shape[0], q.shape[1], latent.shape[1], q_order, k_order)


def _parts(q: Array, k_rope: Array, weight: Array) -> tuple[Array, Array, Array, Array]:
    """q in its two parts; the rows of the weight [H, N, L] of keys and [H, J, L] of values."""
    nope = q.shape[-1] - k_rope.shape[-1]
    rows = weight.reshape(q.shape[2], -1, weight.shape[-1])
    return q[..., :nope], q[..., nope:], rows[:, :nope], rows[:, nope:]


@rounded
def _expanded(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
    """Keys and values of every head are made, and rounded, first."""
    return layers.latent_attention_expanded(q, latent, k_rope, weight, **options)


def _expanded_through_two_functions(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
    """The same by the two functions of the vocabulary, each rounded at every step."""
    v_head_dim = len(weight) // q.shape[2] - (q.shape[-1] - k_rope.shape[-1])
    k, v = specification.expand_latent(latent, k_rope, weight, heads=q.shape[2], v_head_dim=v_head_dim)
    return specification.attention(q, k, v, **options)


@rounded
def _in_two_products(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    scale: float,
    q_order: Array | None = None,
    k_order: Array | None = None,
    temperature: Array | None = None,
    bias: Array | None = None,
    causal: bool = True,
) -> Array:
    """The latent's and the rotated part's share of a logit are rounded, then added; the scale comes after."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    visible = layers.attention_mask(*_places(q, latent, q_order, k_order), causal=causal)
    absorbed = q_nope.transpose(0, 2, 1, 3) @ k_rows
    logits = absorbed @ latent[:, None].swapaxes(2, 3) + q_rope.transpose(0, 2, 1, 3) @ k_rope[:, None].swapaxes(2, 3)
    logits = logits * logits.dtype.type(scale)
    logits = logits if temperature is None else logits * temperature[:, None, :, None]
    weights = masked_softmax(logits if bias is None else logits + bias, visible[:, None])
    return ((weights @ latent[:, None]) @ v_rows.swapaxes(1, 2)).transpose(0, 2, 1, 3)


@rounded
def _scaled_query(q: Array, latent: Array, k_rope: Array, weight: Array, *, scale: float, **options: Any) -> Array:
    """The scale is folded into the query, which is rounded again before it is absorbed."""
    return layers.latent_attention(q * q.dtype.type(scale), latent, k_rope, weight, scale=1.0, **options)


@rounded
def _tempered_query(
    q: Array, latent: Array, k_rope: Array, weight: Array, *, temperature: Array | None = None, **options: Any
) -> Array:
    """The temperature multiplies the query, as models do that have one."""
    q = q if temperature is None else q * temperature[:, :, None, None]
    return layers.latent_attention(q, latent, k_rope, weight, **options)


@float32
def _online(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    scale: float,
    q_order: Array | None = None,
    k_order: Array | None = None,
    **options: Any,
) -> Array:
    """A running softmax over blocks of three latents; the values' rows come after it."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    joined = np.concatenate([np.einsum("BTHN,HNL->BTHL", q_nope, k_rows), q_rope], axis=-1)
    keys = np.concatenate([latent, k_rope], axis=-1)[:, :, None]
    q_order, k_order = _places(q, latent, q_order, k_order)
    places: dict[str, Any] = {"q_order": q_order, "k_order": k_order}
    mixed = layers.attention_online(joined, keys, latent[:, :, None], scale=scale, block=3, **places, **options)
    return np.einsum("BTHL,HJL->BTHJ", mixed, v_rows)


@rounded
def _online_rounded(q: Array, latent: Array, k_rope: Array, weight: Array, *, scale: float, **options: Any) -> Array:
    """The state of the running softmax, as wide as a latent, is rounded too, after each block."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    joined = np.concatenate([(q_nope.transpose(0, 2, 1, 3) @ k_rows).transpose(0, 2, 1, 3), q_rope], axis=-1)
    keys = np.concatenate([latent, k_rope], axis=-1)[:, :, None]
    mixed = layers.attention_online(joined, keys, latent[:, :, None], scale=scale, block=64, **options)
    return (mixed.transpose(0, 2, 1, 3) @ v_rows.swapaxes(1, 2)).transpose(0, 2, 1, 3)


@float32
def _reversed_latents(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    q_order: Array | None = None,
    k_order: Array | None = None,
    bias: Array | None = None,
    **options: Any,
) -> Array:
    """The cache and the columns of the weight are read from the last to the first."""
    q_order, k_order = _places(q, latent, q_order, k_order)
    if bias is not None:
        options["bias"] = bias[..., ::-1]
    latent, k_rope, weight = latent[:, ::-1, ::-1], k_rope[:, ::-1], weight[:, ::-1]
    return layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order[:, ::-1], **options)


def _keys_absorbed_values_expanded(q: Array, latent: Array, k_rope: Array, weight: Array, **options: Any) -> Array:
    """Half of each form: queries go into the latent space, values are made of every latent and rounded."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    narrow = rounded

    def absorb(part: Array, rows: Array) -> Array:
        return (part.transpose(0, 2, 1, 3) @ rows).transpose(0, 2, 1, 3)

    joined = np.concatenate([narrow(absorb)(q_nope, k_rows), q_rope], axis=-1)
    keys = np.repeat(np.concatenate([latent, k_rope], axis=-1)[:, :, None], q.shape[2], axis=2)
    values = narrow(absorb)(np.repeat(latent[:, :, None], q.shape[2], axis=2), np.ascontiguousarray(v_rows.swapaxes(1, 2)))
    return specification.attention(joined, keys, values, **options)


@float32
def _expand_row_by_row(latent: Array, k_rope: Array, weight: Array, *, heads: int, v_head_dim: int) -> tuple[Array, Array]:
    """One row of the weight after the other, and one entry of the latent after the other."""
    both = np.zeros((*latent.shape[:2], len(weight)), latent.dtype)
    for entry in reversed(range(latent.shape[-1])):
        both += latent[..., entry : entry + 1] * weight[:, entry]
    both = both.reshape(*latent.shape[:2], heads, -1)
    shared = np.repeat(k_rope[:, :, None], heads, axis=2)
    return np.concatenate([both[..., :-v_head_dim], shared], axis=-1), both[..., -v_head_dim:]


VARIANTS = (
    layer("latents-expanded", "Keys and values of every head are made, and rounded, first.", latent_attention=_expanded),
    layer(
        "latents-expanded-by-two-functions",
        "The same by the two functions of the vocabulary, each rounded at every step.",
        latent_attention=_expanded_through_two_functions,
    ),
    layer(
        "latents-expanded-in-float32",
        "Keys and values of every head are made first, in float32.",
        latent_attention=float32(layers.latent_attention_expanded),
    ),
    layer(
        "latents-absorbed-in-float32",
        "Queries go into the latent space and results come out of it, in float32.",
        latent_attention=float32(layers.latent_attention),
    ),
    layer(
        "latents-in-two-products",
        "The latent's and the rotated key's share of a logit are rounded, then added; the scale comes after.",
        latent_attention=_in_two_products,
    ),
    layer(
        "scale-on-the-absorbed-query",
        "The scale multiplies the query, which is rounded again before it is absorbed.",
        latent_attention=_scaled_query,
    ),
    layer(
        "temperature-on-the-absorbed-query",
        "The temperature multiplies the query, as in models that have one.",
        latent_attention=_tempered_query,
    ),
    layer(
        "online-softmax-over-latents",
        "A running softmax in float32 over blocks of 3 latents; the values' rows come after it.",
        latent_attention=_online,
    ),
    layer(
        "online-softmax-over-latents-rounded",
        "A running softmax whose state, as wide as a latent, is rounded after each block of 64.",
        latent_attention=_online_rounded,
    ),
    layer(
        "latents-from-last-to-first",
        "The cache and the columns of the weight are read from the last to the first.",
        latent_attention=_reversed_latents,
    ),
    layer(
        "keys-absorbed-values-expanded",
        "Half of each form: queries go into the latent space, values are made of every latent and rounded.",
        latent_attention=_keys_absorbed_values_expanded,
    ),
    layer(
        "latents-expanded-entry-by-entry",
        "One entry of the latent after the other.",
        expand_latent=_expand_row_by_row,
    ),
)
