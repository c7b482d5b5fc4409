"""gpt-oss: sinks, alternating windows, YaRN without truncation, biased experts with clamped activations."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

# Bounds 1.1 and 5.9 of 7 frequencies: neither is clipped, and truncation moves both.
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 300,
    "beta_fast": 23.0,
    "beta_slow": 1.0,
    "truncate": False,
}
GPT_OSS = {
    **COMMON,
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "vocab_size": 103,
    "hidden_size": 36,
    "intermediate_size": 26,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "num_local_experts": 7,
    "num_experts_per_tok": 3,
    "experts_per_token": 3,
    "max_position_embeddings": 1200,
    "rope_theta": 100.0,
    "rope_scaling": YARN,
    "sliding_window": 5,
    # Reached by many a gate and up in every layer.
    "swiglu_limit": 0.9,
    "tie_word_embeddings": False,
}


def _gpt_oss(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="gpt_oss", variant=variant, config={**GPT_OSS, **switches})


MODELS = (
    _gpt_oss("alternating"),
    _gpt_oss(
        "layer_types_alpha",
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        sliding_window=3,
        swiglu_alpha=0.8,
        rope_scaling={**YARN, "attention_factor": 1.3},
    ),
    _gpt_oss(
        "one_expert_tied",
        num_experts_per_tok=1,
        experts_per_token=1,
        attention_bias=False,
        tie_word_embeddings=True,
        layer_types=["full_attention"] * 3,
    ),
    # Rows of whole blocks of 32.
    _gpt_oss("mxfp4", hidden_size=64, intermediate_size=96, quantization_config={"quant_method": "mxfp4"}),
)
