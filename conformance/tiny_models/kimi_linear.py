"""Kimi Linear: decays a channel, latent attention without positions between, a dense first layer, groups of experts."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

LINEAR: dict[str, Any] = {
    "num_heads": 3,
    "head_dim": 12,
    "short_conv_kernel_size": 4,
    "kda_layers": [1, 2, 4],
    "full_attn_layers": [3],
}
KIMI_LINEAR: dict[str, Any] = {
    **COMMON,
    "model_type": "kimi_linear",
    "architectures": ["KimiLinearForCausalLM"],
    "vocab_size": 83,
    "hidden_size": 40,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "moe_layer_freq": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_experts": 12,
    "num_experts_per_token": 3,
    "num_shared_experts": 1,
    "num_expert_group": 4,
    "topk_group": 2,
    "use_grouped_topk": True,
    "routed_scaling_factor": 2.446,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "linear_attn_config": LINEAR,
    "q_lora_rank": None,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 11,
    "qk_rope_head_dim": 6,
    "v_head_dim": 13,
    "mla_use_nope": True,
    "rope_theta": 10000.0,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
}


def _kimi_linear(variant: str, linear: dict[str, Any] | None = None, **switches: Any) -> TinyModel:
    config = {**KIMI_LINEAR, "linear_attn_config": {**LINEAR, **(linear or {})}, **switches}
    return TinyModel(architecture="kimi_linear", variant=variant, config=config)


MODELS = (
    _kimi_linear("released"),
    # Without experts, whose choice is unsteady in narrow formats.
    _kimi_linear("dense", {"kda_layers": [1, 3], "full_attn_layers": [2]}, num_hidden_layers=3, first_k_dense_replace=3),
    _kimi_linear(
        "full_first",
        {"kda_layers": [2, 3], "full_attn_layers": [1], "num_heads": 5, "head_dim": 7, "short_conv_kernel_size": 3},
        num_hidden_layers=3,
        num_expert_group=1,
        topk_group=1,
        moe_renormalize=False,
        num_shared_experts=2,
    ),
)
