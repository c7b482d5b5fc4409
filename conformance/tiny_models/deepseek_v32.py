"""DeepSeek-V3.2: fewer keys chosen than there are, and as many; FP8 blocks with scales that are powers of two."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

DEEPSEEK_V32 = {
    **COMMON,
    "model_type": "deepseek_v32",
    "architectures": ["DeepseekV32ForCausalLM"],
    "vocab_size": 83,
    "hidden_size": 40,
    "intermediate_size": 54,
    "moe_intermediate_size": 18,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 3,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": 22,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 11,
    "qk_rope_head_dim": 8,
    "v_head_dim": 13,
    "index_n_heads": 26,
    "index_head_dim": 14,
    "index_topk": 6,
    "num_nextn_predict_layers": 0,
    "rope_theta": 1000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "tie_word_embeddings": False,
}
FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "scale_fmt": "ue8m0",
    "weight_block_size": [16, 12],
}


def _deepseek_v32(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="deepseek_v32", variant=variant, config={**DEEPSEEK_V32, **switches})


MODELS = (
    _deepseek_v32("few_keys"),
    _deepseek_v32("all_keys", index_topk=40, attention_bias=True, rope_scaling=None),
    _deepseek_v32("fp8", quantization_config=FP8),
)
