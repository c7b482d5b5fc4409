"""SmolLM3: where positions are left out, biases, a tied head."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

SMOLLM3 = {
    **COMMON,
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
    "sliding_window": None,
}


def _smollm3(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="smollm3", variant=variant, config={**SMOLLM3, **switches})


MODELS = (
    _smollm3("tied", tie_word_embeddings=True, no_rope_layer_interval=4),
    _smollm3("untied_bias", tie_word_embeddings=False, attention_bias=True, no_rope_layer_interval=2),
    _smollm3("custom_nope", tie_word_embeddings=True, no_rope_layers=[0, 1, 1, 0]),
)
