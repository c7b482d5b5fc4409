"""Other forms of a layer that are as right as the specification's and round elsewhere: part (a) of the noise is theirs too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl.layers import (
    attention_mask,
    delta_rule_chunked,
    gated_delta_rule_chunked,
    gated_linear_attention_chunked,
    latent_attention_expanded,
    linear_attention_chunked,
    ssd_chunked,
)
from refimpl.layers.attention import default_places, masked_softmax
from refimpl.numerics import Array


def latent_attention_in_two_products(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    scale: float,
    causal: bool = True,
    q_order: Array | None = None,
    k_order: Array | None = None,
    temperature: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """`latent_attention` where the latent's and the rotated key's share of a logit are products of their own.

    Source: the absorbed form of DeepSeek-V3's own inference code.
    """
    heads, nope = q.shape[2], q.shape[3] - k_rope.shape[2]
    rows_HXL = weight.reshape(heads, weight.shape[0] // heads, latent.shape[2])
    q_BHTK, latent_B1SL, k_rope_B1SP = q.swapaxes(1, 2), latent[:, None], k_rope[:, None]
    logits = q_BHTK[..., :nope] @ rows_HXL[:, :nope] @ latent_B1SL.swapaxes(2, 3)
    logits = (logits + q_BHTK[..., nope:] @ k_rope_B1SP.swapaxes(2, 3)) * q.dtype.type(scale)
    logits = logits if temperature is None else logits * temperature[:, None, :, None]
    logits = logits if bias is None else logits + bias
    places = default_places("latent_attention", q.shape[0], q.shape[1], latent.shape[1], q_order, k_order)
    weights = masked_softmax(logits, attention_mask(*places, causal=causal)[:, None])
    return np.swapaxes(weights @ latent_B1SL @ rows_HXL[:, nope:].swapaxes(1, 2), 1, 2)


def _in_chunks(form: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """In chunks of the size that kernels have, and of a smaller one."""
    return partial(form, chunk_size=64), partial(form, chunk_size=16)


OTHER_FORMS: dict[str, tuple[Callable[..., Any], ...]] = {
    "latent_attention": (latent_attention_expanded, latent_attention_in_two_products),
    "linear_attention": _in_chunks(linear_attention_chunked),
    "gated_linear_attention": _in_chunks(gated_linear_attention_chunked),
    "delta_rule": _in_chunks(delta_rule_chunked),
    "gated_delta_rule": _in_chunks(gated_delta_rule_chunked),
    "ssd": _in_chunks(ssd_chunked),
}
MOST_FORMS = max(map(len, OTHER_FORMS.values()))
