"""Qwen3 (dense): YaRN in both forms, a window, biases."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

QWEN3 = {
    **COMMON,
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
# Bounds 1.6 and 4.0 of 16 entries: neither is clipped, so both betas and the truncation show.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, "beta_slow": 1.0}
YARN_SIZES = {"head_dim": 16, "rope_theta": 100.0}


def _qwen3(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="qwen3", variant=variant, config={**QWEN3, **switches})


MODELS = (
    _qwen3("yarn", **YARN_SIZES, rope_scaling=YARN),
    _qwen3("yarn_untruncated", **YARN_SIZES, rope_scaling={**YARN, "truncate": False, "attention_factor": 1.4}),
    _qwen3("window", use_sliding_window=True, sliding_window=5, max_window_layers=1),
    _qwen3("tied_bias", tie_word_embeddings=True, attention_bias=True),
)
