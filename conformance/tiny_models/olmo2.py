"""OLMo 2: post-norms and QK-norm over the projection, for several groups and for a single one; biases."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

OLMO2 = {
    **COMMON,
    "model_type": "olmo2",
    "architectures": ["Olmo2ForCausalLM"],
    "vocab_size": 103,
    "hidden_size": 42,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "tie_word_embeddings": False,
}


def _olmo2(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="olmo2", variant=variant, config={**OLMO2, **switches})


MODELS = (
    _olmo2("groups"),
    _olmo2("one_group_bias", num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True),
)
