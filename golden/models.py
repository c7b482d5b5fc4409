"""The golden models: one small checkpoint an architecture, with everything switched on that the architecture has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from refimpl.checkpoint import save_checkpoint
from refimpl.numerics import Array

# No two sizes of a model are equal, so that a transposed or exchanged axis shows.
CONFIGS: dict[str, dict[str, Any]] = {
    "smollm3": {
        "model_type": "smollm3",
        "architectures": ["SmolLM3ForCausalLM"],
        "vocab_size": 97,
        "hidden_size": 36,
        "intermediate_size": 58,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "no_rope_layers": [1, 0, 1, 1, 0],
        "attention_bias": True,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "torch_dtype": "float32",
    },
    "qwen3": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 89,
        "hidden_size": 40,
        "intermediate_size": 62,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 14,
        "max_position_embeddings": 64,
        "rope_theta": 1000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        "rms_norm_eps": 1e-5,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    },
}
PREFILL, TOTAL = 19, 23


def tokens(name: str) -> Array:
    """Two rows of prompt and continuation, the first as `PREFILL` tokens at once and the rest one at a time."""
    return np.random.default_rng(len(name)).integers(0, CONFIGS[name]["vocab_size"], (2, TOTAL))


def save(name: str, target: Path) -> None:
    """Write the checkpoint of a golden model: seeded weights, stored in float32."""
    model = refimpl.init(CONFIGS[name], seed=2026, dtype="float32")
    tensors = model.blueprint.layouts[0].write(model.weights)
    save_checkpoint(target, CONFIGS[name], tensors)


def run(checkpoint: Path, token_ids: Array) -> dict[str, Array]:
    """What the specification says in float64: all taps of the prefill, then the logits of each cached step."""
    model = refimpl.load(checkpoint, dtype="float64")
    prompt, rest = token_ids[:, :PREFILL], token_ids[:, PREFILL:]
    results = {f"prefill.{name}": value for name, value in model.trace(prompt).items()}
    _, cache = model(prompt)
    for step in range(rest.shape[1]):
        logits, cache = model(rest[:, step : step + 1], cache)
        results[f"decode.{step}.logits"] = logits
    return results
