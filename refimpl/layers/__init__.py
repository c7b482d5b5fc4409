"""What a layer is: pure functions on arrays, one chapter a family.

`VOCABULARY` is the list of them by name: what the wiring of a model may call, what a backend may implement, what the
exporter lowers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refimpl.layers.attention import attention, attention_online, soft_cap
from refimpl.layers.cache import ring_append, ring_order
from refimpl.layers.chunked import (
    delta_rule_chunked,
    gated_delta_rule_chunked,
    gated_linear_attention_chunked,
    linear_attention_chunked,
)
from refimpl.layers.convolution import causal_conv1d
from refimpl.layers.embedding import embedding, lm_head
from refimpl.layers.experts import expert_mixture, routed_experts
from refimpl.layers.fp8 import fp8_block_decode, fp8_block_encode
from refimpl.layers.frequencies import (
    grok_yarn_rope_frequencies,
    linear_rope_frequencies,
    llama3_rope_frequencies,
    rope_frequencies,
    theta_scaled_rope_frequencies,
    yarn_attention_factor,
    yarn_rope_frequencies,
    yarn_softmax_factor,
)
from refimpl.layers.indexer import index_scores, key_selection
from refimpl.layers.int4 import int4_group_decode, int4_group_encode
from refimpl.layers.latent_attention import expand_latent, latent_attention, latent_attention_expanded
from refimpl.layers.linear_attention import (
    delta_rule,
    gated_delta_rule,
    gated_linear_attention,
    linear_attention,
    softplus_decay,
)
from refimpl.layers.loss import cross_entropy, multi_token_loss
from refimpl.layers.mask import attention_mask, causal_mask, chunked_mask, padding_mask, sliding_window_mask
from refimpl.layers.mlp import clamped_swiglu, geglu, gelu, linear, sigmoid, sigmoid_gate, silu, swiglu
from refimpl.layers.multi_token import multi_token_input
from refimpl.layers.norm import gated_rms_norm, l2_norm, layer_norm, rms_norm
from refimpl.layers.position import (
    log_floor_temperature,
    log_length_temperature,
    position_embedding,
    rope_cos_sin,
    rotary_embedding,
    token_order,
)
from refimpl.layers.quantization import mxfp4_decode, mxfp4_encode
from refimpl.layers.router import (
    sigmoid_router,
    softcapped_softmax_router,
    softmax_top_k_router,
    top_k_sigmoid_router,
    top_k_softmax_router,
)
from refimpl.layers.sampling import sample_token, speculative_accept, token_distribution
from refimpl.layers.state_space import ssd, ssd_chunked

VOCABULARY: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        rms_norm,
        layer_norm,
        l2_norm,
        gated_rms_norm,
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
        expand_latent,
        latent_attention,
        index_scores,
        key_selection,
        causal_conv1d,
        softplus_decay,
        linear_attention,
        gated_linear_attention,
        delta_rule,
        gated_delta_rule,
        ssd,
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
        fp8_block_decode,
        int4_group_decode,
        embedding,
        lm_head,
        multi_token_input,
        cross_entropy,
        multi_token_loss,
        token_distribution,
        speculative_accept,
    )
}

__all__ = [
    "VOCABULARY",
    "attention",
    "attention_mask",
    "attention_online",
    "causal_conv1d",
    "causal_mask",
    "chunked_mask",
    "clamped_swiglu",
    "cross_entropy",
    "delta_rule",
    "delta_rule_chunked",
    "embedding",
    "expand_latent",
    "expert_mixture",
    "fp8_block_decode",
    "fp8_block_encode",
    "gated_delta_rule",
    "gated_delta_rule_chunked",
    "gated_linear_attention",
    "gated_linear_attention_chunked",
    "gated_rms_norm",
    "geglu",
    "gelu",
    "grok_yarn_rope_frequencies",
    "index_scores",
    "int4_group_decode",
    "int4_group_encode",
    "key_selection",
    "l2_norm",
    "latent_attention",
    "latent_attention_expanded",
    "layer_norm",
    "linear",
    "linear_attention",
    "linear_attention_chunked",
    "linear_rope_frequencies",
    "llama3_rope_frequencies",
    "lm_head",
    "log_floor_temperature",
    "log_length_temperature",
    "multi_token_input",
    "multi_token_loss",
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
    "sample_token",
    "sigmoid",
    "sigmoid_gate",
    "sigmoid_router",
    "silu",
    "sliding_window_mask",
    "soft_cap",
    "softcapped_softmax_router",
    "softmax_top_k_router",
    "softplus_decay",
    "speculative_accept",
    "ssd",
    "ssd_chunked",
    "swiglu",
    "theta_scaled_rope_frequencies",
    "token_distribution",
    "token_order",
    "top_k_sigmoid_router",
    "top_k_softmax_router",
    "yarn_attention_factor",
    "yarn_rope_frequencies",
    "yarn_softmax_factor",
]
