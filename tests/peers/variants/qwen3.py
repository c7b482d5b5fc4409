"""Qwen3 (dense): QK-norm, every rotary scaling, windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, WINDOW, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 71,
    "hidden_size": 40,
    "intermediate_size": 54,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 14,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}


def _qwen3(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="qwen3", settings=settings or {}, **options)


VARIANTS = {
    "untied": _qwen3(neutral=rope("default", rope_theta=1000.0)),
    "tied": _qwen3({"tie_word_embeddings": True}),
    "attention_bias": _qwen3({"attention_bias": True}),
    "head_dim_of_class": _qwen3({"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1}, derived=("head_dim",)),
    "eps": _qwen3({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _qwen3({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "gelu_tanh": _qwen3({"hidden_act": "gelu_pytorch_tanh"}, neutral={"hidden_act": "silu"}),
    "linear": _qwen3(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "llama3": _qwen3(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "llama3_length_of_the_model": _qwen3(
        rope("llama3", factor=8.0, low_freq_factor=1.5, high_freq_factor=6.0, original_max_position_embeddings=64),
        derived=("rope_parameters.original_max_position_embeddings",),
        neutral=rope("llama3", factor=8.0, **LLAMA3),
    ),
    "yarn": _qwen3(yarn(), neutral=rope("default")),
    "yarn_without_truncation": _qwen3(yarn(truncate=False), neutral=yarn()),
    "yarn_attention_factor": _qwen3(yarn(attention_factor=1.7), neutral=yarn()),
    "yarn_mscale": _qwen3(yarn(mscale=1.3, mscale_all_dim=0.6), neutral=yarn()),
    "yarn_mscale_alone": _qwen3(yarn(mscale=1.3), neutral=yarn(attention_factor=1.3)),
    "yarn_mscales_equal": _qwen3(yarn(mscale=0.7, mscale_all_dim=0.7), neutral=yarn()),
    "yarn_mscale_under_attention_factor": _qwen3(
        yarn(mscale=1.3, mscale_all_dim=0.6, attention_factor=0.8), neutral=yarn(mscale=1.3, mscale_all_dim=0.6)
    ),
    "yarn_betas": _qwen3(
        yarn(beta_fast=3.0, beta_slow=0.5, original_max_position_embeddings=32),
        neutral=yarn(original_max_position_embeddings=32),
    ),
    "yarn_factor_from_lengths": _qwen3(yarn(), written={"rope_parameters.factor": None}, neutral=yarn(factor=3.0)),
    "yarn_no_ramp": _qwen3(
        yarn(beta_fast=1.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=40),
        neutral=yarn(original_max_position_embeddings=40),
    ),
    "yarn_ramp_before_the_first": _qwen3(yarn(original_max_position_embeddings=4), neutral=yarn()),
    "yarn_ramp_before_the_first_without_truncation": _qwen3(
        yarn(original_max_position_embeddings=4, truncate=False), neutral=yarn(original_max_position_embeddings=4)
    ),
    "yarn_ramp_after_the_last": _qwen3(
        yarn(original_max_position_embeddings=50000), neutral=yarn(original_max_position_embeddings=200)
    ),
    "yarn_length_of_the_model": _qwen3(
        yarn(original_max_position_embeddings=64),
        derived=("rope_parameters.original_max_position_embeddings",),
        neutral=yarn(),
    ),
    "window": _qwen3(
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        derived=("layer_types",),
        neutral={"max_window_layers": 2},
        windowed=True,
    ),
    "window_layer_types": _qwen3(
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        },
        neutral={"sliding_window": WINDOW + 1},
        windowed=True,
    ),
    "window_switched_off": _qwen3(
        {"max_window_layers": 0},
        derived=("layer_types",),
        neutral={"use_sliding_window": True, "sliding_window": WINDOW},
    ),
    # The peer's cache keeps every key of a window of one (its slice starts at -window + 1), so two is the shortest.
    "window_of_two": _qwen3(
        {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0},
        derived=("layer_types",),
        neutral={"sliding_window": 3},
        windowed=True,
    ),
    "class_defaults": _qwen3(
        derived=(
            "attention_bias",
            "hidden_act",
            "layer_types",
            "max_window_layers",
            "rms_norm_eps",
            "sliding_window",
            "tie_word_embeddings",
            "use_sliding_window",
        ),
        neutral={"rms_norm_eps": 1e-5},
    ),
    "float16": _qwen3(dtype="float16"),
    "bfloat16_shards": _qwen3({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _qwen3(
        {
            **yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9),
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": WINDOW + 2,
            "max_window_layers": 2,
        },
        windowed=True,
        dtype="float16",
        max_shard_size="15KB",
    ),
}
