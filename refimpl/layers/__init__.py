"""What a layer is: pure functions on arrays, one chapter a family.

`VOCABULARY` is the list of them by name: what the wiring of a model may call, what a backend may implement, what the
exporter lowers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refimpl.layers.attention import attention, attention_online, soft_cap
from refimpl.layers.cache import ring_append, ring_order
from refimpl.layers.embedding import embedding, lm_head
from refimpl.layers.experts import expert_mixture, routed_experts
from refimpl.layers.mask import attention_mask, causal_mask, chunked_mask, padding_mask, sliding_window_mask
from refimpl.layers.mlp import clamped_swiglu, geglu, gelu, linear, sigmoid, sigmoid_gate, silu, swiglu
from refimpl.layers.norm import l2_norm, layer_norm, rms_norm
from refimpl.layers.position import (
    grok_yarn_rope_frequencies,
    linear_rope_frequencies,
    llama3_rope_frequencies,
    log_floor_temperature,
    log_length_temperature,
    position_embedding,
    rope_cos_sin,
    rope_frequencies,
    rotary_embedding,
    theta_scaled_rope_frequencies,
    token_order,
    yarn_attention_factor,
    yarn_rope_frequencies,
)
from refimpl.layers.quantization import mxfp4_decode, mxfp4_encode
from refimpl.layers.router import (
    sigmoid_router,
    softcapped_softmax_router,
    softmax_top_k_router,
    top_k_sigmoid_router,
    top_k_softmax_router,
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
        grok_yarn_rope_frequencies,
        theta_scaled_rope_frequencies,
        rope_cos_sin,
        rotary_embedding,
        position_embedding,
        log_length_temperature,
        log_floor_temperature,
        token_order,
        ring_order,
        ring_append,
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
        clamped_swiglu,
        sigmoid,
        sigmoid_gate,
        top_k_softmax_router,
        softmax_top_k_router,
        softcapped_softmax_router,
        sigmoid_router,
        top_k_sigmoid_router,
        routed_experts,
        mxfp4_decode,
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
    "clamped_swiglu",
    "embedding",
    "expert_mixture",
    "geglu",
    "gelu",
    "grok_yarn_rope_frequencies",
    "l2_norm",
    "layer_norm",
    "linear",
    "linear_rope_frequencies",
    "llama3_rope_frequencies",
    "lm_head",
    "log_floor_temperature",
    "log_length_temperature",
    "mxfp4_decode",
    "mxfp4_encode",
    "padding_mask",
    "position_embedding",
    "ring_append",
    "ring_order",
    "rms_norm",
    "rope_cos_sin",
    "rope_frequencies",
    "rotary_embedding",
    "routed_experts",
    "sigmoid",
    "sigmoid_gate",
    "sigmoid_router",
    "silu",
    "sliding_window_mask",
    "soft_cap",
    "softcapped_softmax_router",
    "softmax_top_k_router",
    "swiglu",
    "theta_scaled_rope_frequencies",
    "token_order",
    "top_k_sigmoid_router",
    "top_k_softmax_router",
    "yarn_attention_factor",
    "yarn_rope_frequencies",
]
