"""What a layer is: pure functions on arrays, one chapter a family.

`VOCABULARY` is the list of them by name: what the wiring of a model may call, what a backend may implement, what the
exporter lowers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refimpl.layers.attention import attention, attention_online, soft_cap
from refimpl.layers.embedding import embedding, lm_head
from refimpl.layers.mask import attention_mask, causal_mask, chunked_mask, padding_mask, sliding_window_mask
from refimpl.layers.mlp import geglu, gelu, linear, silu, swiglu
from refimpl.layers.norm import l2_norm, layer_norm, rms_norm
from refimpl.layers.position import (
    linear_rope_frequencies,
    llama3_rope_frequencies,
    position_embedding,
    rope_cos_sin,
    rope_frequencies,
    rotary_embedding,
    token_order,
    yarn_attention_factor,
    yarn_rope_frequencies,
)

VOCABULARY: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        rms_norm,
        layer_norm,
        l2_norm,
        rope_frequencies,
        linear_rope_frequencies,
        llama3_rope_frequencies,
        yarn_rope_frequencies,
        rope_cos_sin,
        rotary_embedding,
        position_embedding,
        token_order,
        padding_mask,
        causal_mask,
        sliding_window_mask,
        chunked_mask,
        attention_mask,
        attention,
        soft_cap,
        linear,
        silu,
        gelu,
        swiglu,
        geglu,
        embedding,
        lm_head,
    )
}

__all__ = [
    "VOCABULARY",
    "attention",
    "attention_mask",
    "attention_online",
    "causal_mask",
    "chunked_mask",
    "embedding",
    "geglu",
    "gelu",
    "l2_norm",
    "layer_norm",
    "linear",
    "linear_rope_frequencies",
    "llama3_rope_frequencies",
    "lm_head",
    "padding_mask",
    "position_embedding",
    "rms_norm",
    "rope_cos_sin",
    "rope_frequencies",
    "rotary_embedding",
    "silu",
    "sliding_window_mask",
    "soft_cap",
    "swiglu",
    "token_order",
    "yarn_attention_factor",
    "yarn_rope_frequencies",
]
