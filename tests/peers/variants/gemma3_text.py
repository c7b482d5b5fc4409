"""Gemma 3: where the pattern comes from, a rotation for each kind of layer, the two caps, the scale of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, WINDOW, Variant

PLAIN = {"rope_type": "default"}


def ropes(full: Mapping[str, Any], sliding: Mapping[str, Any] = PLAIN) -> dict[str, Any]:
    """The rotary keys of both kinds of layers."""
    kinds = {"full_attention": {"rope_theta": 300.0, **full}, "sliding_attention": {"rope_theta": 40.0, **sliding}}
    return {"rope_parameters": kinds}


BASE = {
    **COMMON,
    **ropes({"rope_type": "linear", "factor": 3.0}),
    "vocab_size": 79,
    "hidden_size": 48,
    "intermediate_size": 54,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "query_pre_attn_scalar": 23,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def _gemma3_text(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    """A variant; of the peer's two spellings of the scaling's kind the older one leaves its global layers unscaled."""
    return Variant(
        architecture="gemma3_text", settings=settings or {}, **{"windowed": True, "old_keys": ("rope_type",), **options}
    )


VARIANTS = {
    "tied": _gemma3_text(neutral={"query_pre_attn_scalar": 10}),
    "untied": _gemma3_text({"tie_word_embeddings": False}, neutral=ropes(PLAIN)),
    "attention_bias": _gemma3_text({"attention_bias": True}),
    "one_kv_head": _gemma3_text({"num_key_value_heads": 1}),
    "head_dim_of_class": _gemma3_text(
        {"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 256},
        derived=("head_dim", "query_pre_attn_scalar"),
        neutral={"query_pre_attn_scalar": 64},
    ),
    "sizes_of_class": _gemma3_text(
        {"num_attention_heads": 8, "num_key_value_heads": 4},
        derived=("num_attention_heads", "num_key_value_heads"),
    ),
    "eps": _gemma3_text({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _gemma3_text({"hidden_activation": "gelu"}, neutral={"hidden_activation": "gelu_pytorch_tanh"}),
    "silu": _gemma3_text({"hidden_activation": "silu"}, neutral={"hidden_activation": "gelu_pytorch_tanh"}),
    "final_softcap": _gemma3_text({"final_logit_softcapping": 16.0}, neutral={"final_logit_softcapping": None}),
    "plain_ropes": _gemma3_text(ropes(PLAIN), old_keys=("rope_type", "type"), neutral=ropes({"rope_theta": 40.0, **PLAIN})),
    "scaled_windows": _gemma3_text(
        ropes(PLAIN, {"rope_type": "linear", "factor": 2.0}), old_keys=(), neutral=ropes({"rope_type": "linear", "factor": 2.0})
    ),
    "yarn_and_llama3": _gemma3_text(
        ropes(YARN, {"rope_type": "llama3", "factor": 8.0, **LLAMA3}), old_keys=(), neutral=ropes(YARN)
    ),
    "yarn_length_of_the_model": _gemma3_text(
        ropes({**YARN, "original_max_position_embeddings": 64}),
        derived=("rope_parameters.full_attention.original_max_position_embeddings",),
        neutral=ropes(YARN),
    ),
    "thetas_of_class": _gemma3_text(
        {"rope_parameters": None}, derived=("rope_parameters",), old_keys=("rope_type", "type"), neutral=ropes(PLAIN)
    ),
    "one_rope_of_class": _gemma3_text(
        ropes({"rope_theta": 1e6, **PLAIN}),
        derived=("rope_parameters.full_attention",),
        old_keys=(),
        neutral=ropes({"rope_theta": 40.0, **PLAIN}),
    ),
    "pattern": _gemma3_text(
        {"layer_types": None, "sliding_window_pattern": 3},
        derived=("layer_types",),
        written={"sliding_window_pattern": 3},
        neutral={"sliding_window_pattern": 2},
    ),
    "pattern_of_class": _gemma3_text(
        {"layer_types": None, "num_hidden_layers": 7},
        derived=("layer_types",),
        neutral={"sliding_window_pattern": 5},
    ),
    "pattern_under_layer_types": _gemma3_text(
        written={"sliding_window_pattern": 3, "_sliding_window_pattern": 4}, neutral={"layer_types": ["full_attention"] * 4}
    ),
    "all_windows": _gemma3_text({"layer_types": ["sliding_attention"] * 4}, neutral={"sliding_window": WINDOW + 1}),
    "no_windows": _gemma3_text(
        {"layer_types": ["full_attention"] * 5, "num_hidden_layers": 5, "tie_word_embeddings": False},
        windowed=False,
        neutral={"layer_types": ["sliding_attention"] * 5},
    ),
    "window_of_class": _gemma3_text({"sliding_window": 4096}, derived=("sliding_window",), neutral={"sliding_window": WINDOW}),
    "class_defaults": _gemma3_text(
        {"rms_norm_eps": 1e-6},
        derived=(
            "_sliding_window_pattern",
            "attention_bias",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "hidden_activation",
            "rms_norm_eps",
            "tie_word_embeddings",
            "use_bidirectional_attention",
        ),
        neutral={"rms_norm_eps": 1e-3},
    ),
    "everything": _gemma3_text(
        {
            **ropes({**YARN, "truncate": False, "attention_factor": 1.3}),
            "attention_bias": True,
            "tie_word_embeddings": False,
            "final_logit_softcapping": 11.0,
            "query_pre_attn_scalar": 31,
            "sliding_window": WINDOW + 2,
            "hidden_activation": "silu",
        },
        dtype="bfloat16",
        max_shard_size="16KB",
    ),
}
