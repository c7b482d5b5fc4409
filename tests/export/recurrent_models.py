"""Configurations of small models with linear attention, for the tests of this directory."""

from __future__ import annotations

from typing import Any

LINEAR, FULL = "linear_attention", "full_attention"
COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "num_hidden_layers": 3,
    "layer_types": [LINEAR, FULL, LINEAR],
    "linear_conv_kernel_dim": 4,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
QWEN3_NEXT: dict[str, Any] = {
    **COMMON,
    "model_type": "qwen3_next",
    "hidden_size": 22,
    "intermediate_size": 34,
    "moe_intermediate_size": 10,
    "shared_expert_intermediate_size": 14,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
}
KIMI_LINEAR: dict[str, Any] = {
    **COMMON,
    "model_type": "kimi_linear",
    "hidden_size": 26,
    "intermediate_size": 34,
    "moe_intermediate_size": 10,
    "num_experts": 6,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": None,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 7,
    "linear_num_heads": 3,
    "linear_head_dim": 9,
}
RECURRENT_MODELS = {
    "qwen3_next": QWEN3_NEXT,
    "kimi_linear": KIMI_LINEAR,
    "no_state_that_grows": {**QWEN3_NEXT, "layer_types": [LINEAR] * 3},
}
