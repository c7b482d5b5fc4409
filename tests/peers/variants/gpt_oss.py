"""gpt-oss: sinks, alternating windows, YaRN without truncation, biased experts with clamped activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, WINDOW, Variant, rope, yarn

# Bounds 0.26 and 4.02 of 5 frequencies: neither is clipped, and truncation moves both.
YARN = yarn(original_max_position_embeddings=256, truncate=False)
BASE = {
    **COMMON,
    **YARN,
    "vocab_size": 73,
    "hidden_size": 44,
    "intermediate_size": 34,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "num_local_experts": 9,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 1024,
    "sliding_window": WINDOW,
    # Reached by every fourth gate and every second up.
    "swiglu_limit": 0.8,
}
FULL = ["full_attention"] * 4
OTHER_TYPES = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def _gpt_oss(settings: Mapping[str, Any] | None = None, *, windowed: bool = True, **options: Any) -> Variant:
    return Variant(architecture="gpt_oss", settings=settings or {}, windowed=windowed, **options)


VARIANTS = {
    "plain": _gpt_oss(neutral=yarn(original_max_position_embeddings=256)),
    "tied": _gpt_oss({"tie_word_embeddings": True}),
    "without_attention_bias": _gpt_oss({"attention_bias": False}),
    "full_attention": _gpt_oss({"layer_types": FULL}, windowed=False, neutral={"layer_types": OTHER_TYPES}),
    "layer_types": _gpt_oss({"layer_types": OTHER_TYPES}, neutral={"layer_types": OTHER_TYPES[::-1][1:] + OTHER_TYPES[:1]}),
    "layer_types_of_class": _gpt_oss(derived=("layer_types",), neutral={"layer_types": OTHER_TYPES}),
    "window_of_two": _gpt_oss({"sliding_window": 2}, neutral={"sliding_window": 3}),
    "one_expert": _gpt_oss({"num_experts_per_tok": 1}, neutral={"num_experts_per_tok": 2}),
    "all_experts": _gpt_oss({"num_experts_per_tok": 9}, neutral={"num_experts_per_tok": 8}),
    "limit": _gpt_oss({"swiglu_limit": 0.3}, neutral={"swiglu_limit": 0.31}),
    "limit_out_of_reach": _gpt_oss({"swiglu_limit": 50.0}, neutral={"swiglu_limit": 2.0}),
    "alpha": _gpt_oss({"swiglu_alpha": 0.6}, neutral={"swiglu_alpha": 1.702}),
    "eps": _gpt_oss({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "as_many_kv_heads": _gpt_oss({"num_key_value_heads": 6}),
    "one_kv_head": _gpt_oss({"num_key_value_heads": 1}),
    # Without scaling the old keys are null, which means that of the class here.
    "no_scaling": _gpt_oss(rope("default"), neutral=YARN, old_keys=()),
    "linear": _gpt_oss(rope("linear", factor=3.0), neutral=YARN),
    "yarn_of_class": _gpt_oss({"rope_parameters": None}, derived=("rope_parameters",), neutral=YARN),
    "yarn_null": _gpt_oss({"rope_parameters": None}, written={"rope_parameters": None}, neutral=YARN),
    "yarn_truncated": _gpt_oss(yarn(original_max_position_embeddings=256), neutral=YARN),
    "yarn_attention_factor": _gpt_oss(
        yarn(original_max_position_embeddings=256, truncate=False, attention_factor=1.7), neutral=YARN
    ),
    "activation_that_is_not_read": _gpt_oss({"hidden_act": "gelu"}),
    "keys_of_the_hub": _gpt_oss(written={"experts_per_token": 4, "initial_context_length": 8}),
    "class_defaults": _gpt_oss(
        {
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "swiglu_limit": 7.0,
            "sliding_window": 128,
        },
        derived=(
            "attention_bias",
            "head_dim",
            "hidden_act",
            "layer_types",
            "num_experts_per_tok",
            "num_key_value_heads",
            "rms_norm_eps",
            "router_aux_loss_coef",
            "sliding_window",
            "swiglu_alpha",
            "swiglu_limit",
            "tie_word_embeddings",
        ),
        neutral={"swiglu_alpha": 1.7},
    ),
    "float16": _gpt_oss(dtype="float16"),
    "bfloat16_shards": _gpt_oss(dtype="bfloat16", max_shard_size="30KB"),
    "everything": _gpt_oss(
        {
            **yarn(original_max_position_embeddings=200, truncate=False, beta_fast=20.0, attention_factor=1.2),
            "layer_types": OTHER_TYPES,
            "sliding_window": WINDOW + 2,
            "tie_word_embeddings": True,
            "num_experts_per_tok": 2,
            "swiglu_alpha": 1.1,
            "swiglu_limit": 0.6,
            "rms_norm_eps": 1e-3,
        },
        dtype="bfloat16",
        max_shard_size="40KB",
        neutral={"swiglu_limit": 0.7},
    ),
}
