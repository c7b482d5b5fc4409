"""Qwen3-MoE: both ways to weigh the chosen experts, dense layers among sparse ones, a window on every layer."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

QWEN3_MOE = {
    **COMMON,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 91,
    "hidden_size": 40,
    "intermediate_size": 54,
    "moe_intermediate_size": 22,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rope_theta": 10000.0,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
}


def _qwen3_moe(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="qwen3_moe", variant=variant, config={**QWEN3_MOE, **switches})


MODELS = (
    _qwen3_moe("renormalised"),
    _qwen3_moe("not_renormalised", norm_topk_prob=False, num_experts_per_tok=2),
    _qwen3_moe("dense_layers", decoder_sparse_step=2, mlp_only_layers=[0], num_hidden_layers=4, attention_bias=True),
    _qwen3_moe("window", use_sliding_window=True, sliding_window=5, tie_word_embeddings=True),
)
