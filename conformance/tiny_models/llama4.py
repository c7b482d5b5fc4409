"""Llama 4: chunks and rotation on the same layers, temperature on the others, dense and routed layers."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

# A chunk ends, and the temperature takes steps, within the text.
LLAMA4 = {
    **COMMON,
    "model_type": "llama4_text",
    "architectures": ["Llama4ForCausalLM"],
    "vocab_size": 91,
    "hidden_size": 36,
    "intermediate_size": 26,
    "intermediate_size_mlp": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "num_local_experts": 5,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "no_rope_layers": [1, 0, 1],
    "attention_chunk_size": 6,
    "attn_temperature_tuning": True,
    "attn_scale": 0.5,
    "floor_scale": 3,
    "use_qk_norm": True,
    "rope_theta": 100.0,
    "attention_bias": False,
    "tie_word_embeddings": False,
}
# Of eight frequencies the first two are kept, the last four divided, and those between blended.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 48,
}


def _llama4(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="llama4_text", variant=variant, config={**LLAMA4, **switches})


MODELS = (
    _llama4("qk_norm"),
    _llama4("llama3_without_qk_norm", head_dim=16, use_qk_norm=False, rope_scaling=LLAMA3),
    _llama4("two_experts_biases", num_experts_per_tok=2, moe_layers=[0, 1], attention_bias=True, no_rope_layers=[0, 1, 1]),
)
