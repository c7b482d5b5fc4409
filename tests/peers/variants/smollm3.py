"""SmolLM3: layers with and without positions, windows, biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, WINDOW, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 58,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}


def _smollm3(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="smollm3", settings=settings or {}, **options)


VARIANTS = {
    "tied": _smollm3(neutral={"no_rope_layers": [1, 1, 1, 1, 1]}),
    "untied": _smollm3({"tie_word_embeddings": False}),
    "attention_bias": _smollm3({"attention_bias": True}),
    "mlp_bias": _smollm3({"mlp_bias": True}),
    "no_rope_list": _smollm3({"no_rope_layers": [0, 1, 0, 0, 1]}, neutral={"no_rope_layers": [1, 0, 1, 1, 0]}),
    "no_rope_anywhere": _smollm3({"no_rope_layers": [0] * 5}, neutral={"no_rope_layers": [0, 0, 0, 0, 1]}),
    "no_rope_interval": _smollm3(
        {"no_rope_layer_interval": 2}, derived=("no_rope_layers", "layer_types"), neutral={"no_rope_layer_interval": 4}
    ),
    "no_rope_interval_of_class": _smollm3(
        derived=("no_rope_layers", "no_rope_layer_interval", "layer_types"), neutral={"no_rope_layer_interval": 3}
    ),
    "window": _smollm3(
        {"use_sliding_window": True, "sliding_window": WINDOW, "no_rope_layer_interval": 2},
        derived=("layer_types",),
        neutral={"use_sliding_window": False},
        windowed=True,
    ),
    "window_layer_types": _smollm3(
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
        neutral={"layer_types": ["full_attention"] * 5},
        windowed=True,
    ),
    "window_layer_types_without_switch": _smollm3(
        {
            "use_sliding_window": False,
            "sliding_window": WINDOW,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "full_attention"],
        },
        neutral={"layer_types": ["full_attention"] * 5},
        windowed=True,
    ),
    "window_longer_than_the_text": _smollm3({"use_sliding_window": True, "sliding_window": 50}, windowed=True),
    "head_dim_of_its_own": _smollm3({"head_dim": 10}),
    "as_many_kv_heads": _smollm3({"num_key_value_heads": 6}, written={"num_key_value_heads": None}),
    "one_kv_head": _smollm3({"num_key_value_heads": 1}),
    "yarn": _smollm3(yarn(), neutral=rope("default")),
    "default_theta": _smollm3({"rope_parameters": None}, derived=("rope_parameters",), neutral=rope("default")),
    "class_defaults": _smollm3(
        derived=(
            "attention_bias",
            "hidden_act",
            "layer_types",
            "mlp_bias",
            "rms_norm_eps",
            "sliding_window",
            "tie_word_embeddings",
            "use_sliding_window",
        ),
        neutral={"rms_norm_eps": 1e-5},
    ),
    "everything": _smollm3(
        {
            **yarn(truncate=False, beta_fast=4.0),
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "no_rope_layers": [0, 1, 1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": WINDOW + 2,
            "hidden_act": "gelu_pytorch_tanh",
        },
        windowed=True,
        dtype="bfloat16",
        max_shard_size="20KB",
    ),
}
