"""Mistral: a window on every layer, and none; a head width of its own."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

MISTRAL = {
    **COMMON,
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "vocab_size": 91,
    "hidden_size": 44,
    "intermediate_size": 54,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def _mistral(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="mistral", variant=variant, config={**MISTRAL, **switches})


MODELS = (
    _mistral("window", sliding_window=5),
    _mistral("tied", sliding_window=None, tie_word_embeddings=True),
)
