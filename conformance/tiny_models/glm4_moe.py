"""GLM-4.5: groups of experts, the scaling factor, shared experts, QK-norm, biases, shares of a head rotated."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

GLM4_MOE = {
    **COMMON,
    "model_type": "glm4_moe",
    "architectures": ["Glm4MoeForCausalLM"],
    "vocab_size": 87,
    "hidden_size": 44,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "attention_bias": True,
    "use_qk_norm": False,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
}


def _glm4_moe(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="glm4_moe", variant=variant, config={**GLM4_MOE, **switches})


MODELS = (
    _glm4_moe("large", use_qk_norm=True, routed_scaling_factor=2.5),
    _glm4_moe("air", partial_rotary_factor=0.3),
    _glm4_moe("groups", n_group=3, topk_group=2, n_shared_experts=2, routed_scaling_factor=2.5, attention_bias=False),
    _glm4_moe("not_renormalised", norm_topk_prob=False, routed_scaling_factor=1.5, tie_word_embeddings=True),
)
