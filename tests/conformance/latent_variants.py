"""Latent attention that is right in other ways than the specification."""

from __future__ import annotations

import numpy as np

from conformance.backends import numpy as specification
from refimpl import layers
from refimpl.layers.attention import masked_softmax
from tests.conformance.computing import computing_in, rounding_every_step

float32 = computing_in(np.float32)


def _places(q, latent, q_order, k_order):
    B, T, S = q.shape[0], q.shape[1], latent.shape[1]
    if k_order is None:
        k_order, q_order = np.tile(np.arange(S), (B, 1)), np.tile(np.arange(S - T, S), (B, 1))
    return q_order, k_order


def _parts(q, k_rope, weight):
    """q in its two parts; the rows of the weight [H, N, L] of keys and [H, J, L] of values."""
    nope = q.shape[-1] - k_rope.shape[-1]
    rows = weight.reshape(q.shape[2], -1, weight.shape[-1])
    return q[..., :nope], q[..., nope:], rows[:, :nope], rows[:, nope:]


@rounding_every_step
def expanded(q, latent, k_rope, weight, **options):
    """Keys and values of every head are made, and rounded, first."""
    return layers.latent_attention_expanded(q, latent, k_rope, weight, **options)


def expanded_through_two_functions(q, latent, k_rope, weight, **options):
    """The same by the two functions of the vocabulary, each rounded at every step."""
    v_head_dim = len(weight) // q.shape[2] - (q.shape[-1] - k_rope.shape[-1])
    k, v = specification.expand_latent(latent, k_rope, weight, heads=q.shape[2], v_head_dim=v_head_dim)
    return specification.attention(q, k, v, **options)


@rounding_every_step
def in_two_products(q, latent, k_rope, weight, *, scale, q_order=None, k_order=None, temperature=None, bias=None, causal=True):
    """The latent's and the rotated part's share of a logit are rounded, then added; the scale comes after."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    visible = layers.attention_mask(*_places(q, latent, q_order, k_order), causal=causal)
    absorbed = q_nope.transpose(0, 2, 1, 3) @ k_rows
    logits = absorbed @ latent[:, None].swapaxes(2, 3) + q_rope.transpose(0, 2, 1, 3) @ k_rope[:, None].swapaxes(2, 3)
    logits = logits * logits.dtype.type(scale)
    logits = logits if temperature is None else logits * temperature[:, None, :, None]
    weights = masked_softmax(logits if bias is None else logits + bias, visible[:, None])
    return ((weights @ latent[:, None]) @ v_rows.swapaxes(1, 2)).transpose(0, 2, 1, 3)


@rounding_every_step
def scaled_query(q, latent, k_rope, weight, *, scale, **options):
    """The scale is folded into the query, which is rounded again before it is absorbed."""
    return layers.latent_attention(q * q.dtype.type(scale), latent, k_rope, weight, scale=1.0, **options)


@rounding_every_step
def tempered_query(q, latent, k_rope, weight, *, temperature=None, **options):
    """The temperature multiplies the query, as models do that have one."""
    q = q if temperature is None else q * temperature[:, :, None, None]
    return layers.latent_attention(q, latent, k_rope, weight, **options)


@float32
def online(q, latent, k_rope, weight, *, scale, q_order=None, k_order=None, **options):
    """A running softmax over blocks of three latents; the values' rows come after it."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    joined = np.concatenate([np.einsum("BTHN,HNL->BTHL", q_nope, k_rows), q_rope], axis=-1)
    keys = np.concatenate([latent, k_rope], axis=-1)[:, :, None]
    q_order, k_order = _places(q, latent, q_order, k_order)
    places = {"q_order": q_order, "k_order": k_order}
    mixed = layers.attention_online(joined, keys, latent[:, :, None], scale=scale, block=3, **places, **options)
    return np.einsum("BTHL,HJL->BTHJ", mixed, v_rows)


@rounding_every_step
def online_rounded(q, latent, k_rope, weight, *, scale, **options):
    """The state of the running softmax, as wide as a latent, is rounded too, after each block."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    joined = np.concatenate([(q_nope.transpose(0, 2, 1, 3) @ k_rows).transpose(0, 2, 1, 3), q_rope], axis=-1)
    keys = np.concatenate([latent, k_rope], axis=-1)[:, :, None]
    mixed = layers.attention_online(joined, keys, latent[:, :, None], scale=scale, block=64, **options)
    return (mixed.transpose(0, 2, 1, 3) @ v_rows.swapaxes(1, 2)).transpose(0, 2, 1, 3)


@float32
def reversed_latents(q, latent, k_rope, weight, *, q_order=None, k_order=None, bias=None, **options):
    """The cache and the columns of the weight are read from the last to the first."""
    q_order, k_order = _places(q, latent, q_order, k_order)
    if bias is not None:
        options["bias"] = bias[..., ::-1]
    latent, k_rope, weight = latent[:, ::-1, ::-1], k_rope[:, ::-1], weight[:, ::-1]
    return layers.latent_attention(q, latent, k_rope, weight, q_order=q_order, k_order=k_order[:, ::-1], **options)


def keys_absorbed_values_expanded(q, latent, k_rope, weight, **options):
    """Half of each form: queries go into the latent space, values are made of every latent and rounded."""
    q_nope, q_rope, k_rows, v_rows = _parts(q, k_rope, weight)
    narrow = rounding_every_step

    def absorb(part, rows):
        return (part.transpose(0, 2, 1, 3) @ rows).transpose(0, 2, 1, 3)

    joined = np.concatenate([narrow(absorb)(q_nope, k_rows), q_rope], axis=-1)
    keys = np.repeat(np.concatenate([latent, k_rope], axis=-1)[:, :, None], q.shape[2], axis=2)
    values = narrow(absorb)(np.repeat(latent[:, :, None], q.shape[2], axis=2), np.ascontiguousarray(v_rows.swapaxes(1, 2)))
    return specification.attention(joined, keys, values, **options)


@float32
def expand_row_by_row(latent, k_rope, weight, *, heads, v_head_dim):
    """One row of the weight after the other, and one entry of the latent after the other."""
    both = np.zeros((*latent.shape[:2], len(weight)), latent.dtype)
    for entry in reversed(range(latent.shape[-1])):
        both += latent[..., entry : entry + 1] * weight[:, entry]
    both = both.reshape(*latent.shape[:2], heads, -1)
    shared = np.repeat(k_rope[:, :, None], heads, axis=2)
    return np.concatenate([both[..., :-v_head_dim], shared], axis=-1), both[..., -v_head_dim:]


LATENT_VARIANTS = {
    "latents expanded": {"latent_attention": expanded},
    "latents expanded by two functions": {"latent_attention": expanded_through_two_functions},
    "latents expanded in float32": {"latent_attention": float32(layers.latent_attention_expanded)},
    "latents in two products": {"latent_attention": in_two_products},
    "scale folded into the absorbed query": {"latent_attention": scaled_query},
    "temperature folded into the absorbed query": {"latent_attention": tempered_query},
    "online softmax over latents in float32": {"latent_attention": online},
    "online softmax over latents, rounded at every step": {"latent_attention": online_rounded},
    "latents from last to first": {"latent_attention": reversed_latents},
    "keys absorbed, values expanded": {"latent_attention": keys_absorbed_values_expanded},
    "latents expanded row by row": {"expand_latent": expand_row_by_row},
}
