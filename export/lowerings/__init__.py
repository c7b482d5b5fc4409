"""The body of every layer in standard ONNX operators, file by file and name by name as `refimpl.layers`.

A lowering takes a body to write into, then the arrays and options of the layer. Where its arguments differ from the
layer's (attention takes a mask for the orders), `export.ops.GraphOps` stands between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.lowerings.attention import attention, soft_cap
from export.lowerings.cache import ring_append, ring_order
from export.lowerings.embedding import embedding, lm_head
from export.lowerings.experts import routed_experts
from export.lowerings.mask import attention_mask, causal_mask, chunked_mask, padding_mask, sliding_window_mask
from export.lowerings.mlp import clamped_swiglu, geglu, gelu, linear, sigmoid, sigmoid_gate, silu, swiglu
from export.lowerings.norm import l2_norm, layer_norm, rms_norm
from export.lowerings.position import (
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
    yarn_rope_frequencies,
)
from export.lowerings.quantization import mxfp4_decode
from export.lowerings.router import (
    sigmoid_router,
    softcapped_softmax_router,
    softmax_top_k_router,
    top_k_sigmoid_router,
    top_k_softmax_router,
)

LOWERINGS: dict[str, Callable[..., Any]] = {
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
