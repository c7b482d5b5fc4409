"""DeepSeek-V3 and Kimi K2: latents of queries or none, groups of experts, every factor of YaRN, FP8 blocks and INT4 groups."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

DEEPSEEK_V3: dict[str, Any] = {
    **COMMON,
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 87,
    "hidden_size": 42,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "moe_layer_freq": 1,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": 22,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 11,
    "qk_rope_head_dim": 8,
    "v_head_dim": 13,
    "rope_theta": 100.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
}
KIMI_K2 = {
    **DEEPSEEK_V3,
    "model_type": "kimi_k2",
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
    "rope_theta": 500.0,
    "rope_scaling": {**DEEPSEEK_V3["rope_scaling"], "original_max_position_embeddings": 64, "beta_fast": 1.0, "beta_slow": 1.0},
}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 12]}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}


def _deepseek_v3(variant: str, base: dict[str, Any] = DEEPSEEK_V3, **switches: Any) -> TinyModel:
    config = {**base, **switches}
    return TinyModel(architecture=config["model_type"], variant=variant, config=config)


MODELS = (
    _deepseek_v3("released", num_hidden_layers=4),
    _deepseek_v3("direct", q_lora_rank=None, n_shared_experts=2, attention_bias=True, tie_word_embeddings=True),
    _deepseek_v3(
        "unlike_mscales",
        norm_topk_prob=False,
        rope_interleave=False,
        rope_scaling={**DEEPSEEK_V3["rope_scaling"], "mscale": 1.6, "mscale_all_dim": 0.6},
    ),
    # Without experts, whose choice is unsteady in narrow formats, a wrong scale shows in all of them.
    _deepseek_v3("dense", first_k_dense_replace=3, rope_scaling={**DEEPSEEK_V3["rope_scaling"], "factor": 32.0}),
    _deepseek_v3("fp8", quantization_config=FP8),
    _deepseek_v3("instruct", KIMI_K2),
    _deepseek_v3("thinking", KIMI_K2, hidden_size=64, moe_intermediate_size=32, quantization_config=INT4),
)
