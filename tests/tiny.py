"""Small configurations with no two dimensions equal, and reproducible arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 28,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "tie_word_embeddings": False,
}
SMOLLM3 = {
    "model_type": "smollm3",
    "vocab_size": 47,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "no_rope_layers": [1, 0, 1, 1, 0],
}


def qwen3(**changes: Any) -> dict[str, Any]:
    return {**QWEN3, **changes}


def smollm3(**changes: Any) -> dict[str, Any]:
    return {**SMOLLM3, **changes}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tokens(batch: int, length: int, *, vocab_size: int = 47, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, vocab_size, (batch, length))
