"""Llama 3: its scaling of the frequencies, biases, a head width of its own, a tied head."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

LLAMA = {
    **COMMON,
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 93,
    "hidden_size": 48,
    "intermediate_size": 54,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_theta": 100.0,
    "attention_bias": False,
    "mlp_bias": False,
}
# Wavelengths 6.3, 11, 20, ... 353: two of them are kept, two blended, four divided.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.5,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _llama(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="llama", variant=variant, config={**LLAMA, **switches})


MODELS = (
    _llama("llama3", rope_scaling=LLAMA3, tie_word_embeddings=True),
    _llama("bias", attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
)
