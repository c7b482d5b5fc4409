"""Llama 3: every scaling, biases, a head width of its own, a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, Variant, rope

BASE = {
    **COMMON,
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}


def _llama(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="llama", settings=settings or {}, **options)


VARIANTS = {
    "untied": _llama(neutral=rope("default", rope_theta=1000.0)),
    "tied": _llama({"tie_word_embeddings": True}),
    "llama3": _llama(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "biases": _llama({"attention_bias": True, "mlp_bias": True}),
    "head_dim_of_its_own": _llama({"head_dim": 10}),
    "class_defaults": _llama(
        derived=(
            "attention_bias",
            "head_dim",
            "hidden_act",
            "mlp_bias",
            "num_key_value_heads",
            "pretraining_tp",
            "rms_norm_eps",
            "tie_word_embeddings",
        ),
        settings={"num_key_value_heads": 6},
        neutral={"rms_norm_eps": 1e-5},
    ),
}
