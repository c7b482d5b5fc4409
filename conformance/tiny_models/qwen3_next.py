"""Qwen3-Next: more value heads than key heads, gated attention, a quarter of a head rotated, a gated shared expert."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

QWEN3_NEXT: dict[str, Any] = {
    **COMMON,
    "model_type": "qwen3_next",
    "architectures": ["Qwen3NextForCausalLM"],
    "vocab_size": 87,
    "hidden_size": 42,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "shared_expert_intermediate_size": 22,
    "num_experts": 11,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_hidden_layers": 4,
    "full_attention_interval": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "partial_rotary_factor": 0.25,
    "rope_theta": 100.0,
    "attention_bias": False,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 10,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 4,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
}


def _qwen3_next(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="qwen3_next", variant=variant, config={**QWEN3_NEXT, **switches})


MODELS = (
    _qwen3_next("released"),
    # Without experts, whose choice is unsteady in narrow formats.
    _qwen3_next("dense", num_hidden_layers=3, full_attention_interval=2, mlp_only_layers=[0, 1, 2]),
    _qwen3_next(
        "equal_groups",
        layer_types=["full_attention", "linear_attention", "linear_attention"],
        num_hidden_layers=3,
        linear_num_key_heads=3,
        linear_num_value_heads=3,
        linear_conv_kernel_dim=2,
        attention_bias=True,
        norm_topk_prob=False,
        mlp_only_layers=[0],
        tie_word_embeddings=True,
    ),
)
