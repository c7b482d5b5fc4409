"""Grok 2.5: both arrangements of its experts, every rotary scaling, temperature within the tested length."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

GROK = {
    **COMMON,
    "model_type": "git",
    "architectures": ["Grok1ForCausalLM"],
    "hidden_act": "gelu",
    "vocab_size": 103,
    "hidden_size": 44,
    "intermediate_size": 58,
    "moe_intermediate_size": 34,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "residual_moe": True,
    # Of the size of what the branches give: behind the norm of their sum, a division of it shows through eps alone.
    "rms_norm_eps": 0.2,
    "embedding_multiplier_scale": 6.5,
    "output_multiplier_scale": 2.5,
    "attn_logit_softcapping": 6.0,
    "router_logit_softcapping": 20.0,
    "final_logit_softcapping": 4.0,
    "attn_temperature_len": 5,
    "sliding_window_size": -1,
    "global_attn_every_n": 1,
    "rope_theta": 100,
    "rope_type": "original",
    # Bounds 1 and 5 of 16 entries: neither is clipped, so both betas show.
    "original_max_position_embeddings": 64,
    "scaling_factor": 4.0,
    "extrapolation_factor": 0.9,
    "attn_factor": 1.5,
    "beta_fast": 4,
    "beta_slow": 1,
}


def _grok(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="grok", variant=variant, config={**GROK, **switches})


MODELS = (
    _grok("residual"),
    _grok("residual_yarn_log", rope_type="yarn_log", hidden_act="gelu_pytorch_tanh"),
    _grok("experts_alone_yarn", rope_type="yarn", residual_moe=False, num_experts_per_tok=3),
    _grok("theta_scale", rope_type="theta_scale", attn_temperature_len=-1, router_logit_softcapping=-1.0),
)
