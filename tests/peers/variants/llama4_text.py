"""Llama 4: layers with and without positions, chunks, temperature, QK-norm, dense and routed layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, Variant, rope, yarn

CHUNK = 7
# A temperature that has taken several steps by the end of the text.
TEMPERATURE = {"attn_temperature_tuning": True, "attn_scale": 0.7, "floor_scale": 4}
BASE = {
    **COMMON,
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 22,
    "intermediate_size_mlp": 58,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "num_local_experts": 7,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": CHUNK,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}


def _llama4(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="llama4_text", settings=settings or {}, **{"windowed": True, **options})


def _tempered(settings: Mapping[str, Any], **options: Any) -> Variant:
    return _llama4({**TEMPERATURE, **settings}, counts_columns=True, **options)


VARIANTS = {
    "untied": _llama4(neutral={"no_rope_layers": [1] * 5}),
    "tied": _llama4({"tie_word_embeddings": True}),
    "attention_bias": _llama4({"attention_bias": True}),
    "eps": _llama4({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _llama4({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "without_qk_norm": _llama4({"use_qk_norm": False}, neutral={"use_qk_norm": True}),
    "no_rope_list": _llama4({"no_rope_layers": [0, 1, 0, 0, 1]}, neutral={"no_rope_layers": [1, 0, 1, 1, 0]}),
    "no_rope_empty_list": _llama4(
        {"no_rope_layers": [], "no_rope_layer_interval": 2},
        written={"no_rope_layers": []},
        derived=("layer_types",),
        neutral={"no_rope_layer_interval": 4},
    ),
    "no_rope_interval_of_class": _llama4(
        derived=("no_rope_layers", "no_rope_layer_interval", "layer_types"), neutral={"no_rope_layer_interval": 3}
    ),
    "no_rope_anywhere": _llama4(
        {"no_rope_layers": [0] * 5}, derived=("layer_types",), neutral={"no_rope_layers": [0, 0, 0, 0, 1]}, windowed=False
    ),
    "chunk_of_two": _llama4({"attention_chunk_size": 2}, neutral={"attention_chunk_size": 3}),
    "chunk_longer_than_the_text": _llama4({"attention_chunk_size": 50}, neutral={"attention_chunk_size": 20}),
    "no_chunks": _llama4(
        {"attention_chunk_size": None},
        written={"attention_chunk_size": None},
        derived=("layer_types",),
        neutral={"attention_chunk_size": CHUNK},
        windowed=False,
    ),
    "chunks_where_layer_types_say": _llama4(
        {"layer_types": ["full_attention", "chunked_attention", "full_attention", "chunked_attention", "chunked_attention"]},
        neutral={"layer_types": ["full_attention"] * 5},
    ),
    "moe_everywhere": _llama4({"interleave_moe_layer_step": 1}),
    "moe_layers": _llama4({"moe_layers": [0, 3]}),
    "moe_step_of_class": _llama4({"interleave_moe_layer_step": 1}, derived=("moe_layers", "interleave_moe_layer_step")),
    "moe_nowhere": _llama4({"moe_layers": []}),
    "three_experts_a_token": _llama4({"num_experts_per_tok": 3}, neutral={"num_experts_per_tok": 2}),
    "all_experts": _llama4({"num_experts_per_tok": 7}, neutral={"num_experts_per_tok": 6}),
    "temperature": _tempered({}, neutral={"attn_temperature_tuning": False}),
    "temperature_scale": _tempered({"attn_scale": 0.3}, neutral={"attn_scale": 0.4}),
    "temperature_of_two_layers": _tempered(
        {"no_rope_layers": [0, 1, 1, 0, 1]}, neutral={"floor_scale": 5}, derived=("layer_types",)
    ),
    "temperature_under_chunks": _tempered(
        {"layer_types": ["chunked_attention"] * 5}, neutral={"attn_temperature_tuning": False}
    ),
    "temperature_switched_off": _llama4(
        {**TEMPERATURE, "attn_temperature_tuning": False}, neutral={"attn_temperature_tuning": True}
    ),
    "linear": _llama4(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "llama3": _llama4(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "llama3_without_a_middle": _llama4(
        rope("llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_max_position_embeddings=32),
        neutral=rope("default"),
    ),
    # The norm behind the rotation takes the attention factor away again.
    "yarn": _llama4(yarn(), neutral=rope("default")),
    "yarn_without_qk_norm": _llama4({**yarn(), "use_qk_norm": False}, neutral=yarn(attention_factor=1.0)),
    "default_theta": _llama4({"rope_parameters": None}, derived=("rope_parameters",), neutral=rope("default")),
    "as_many_kv_heads": _llama4({"num_key_value_heads": 6}),
    "class_defaults": _llama4(
        {
            "head_dim": 128,
            "num_key_value_heads": 8,
            "num_attention_heads": 8,
            "num_local_experts": 16,
            "attention_chunk_size": 8192,
        },
        derived=(
            "attention_bias",
            "attention_chunk_size",
            "attn_scale",
            "attn_temperature_tuning",
            "floor_scale",
            "head_dim",
            "hidden_act",
            "layer_types",
            "num_key_value_heads",
            "rms_norm_eps",
            "router_jitter_noise",
            "tie_word_embeddings",
            "use_qk_norm",
        ),
        neutral={"rms_norm_eps": 1e-3},
    ),
    "everything": _tempered(
        {
            **yarn(truncate=False, beta_fast=4.0),
            "attention_bias": True,
            "no_rope_layers": [0, 1, 1, 0, 1],
            "num_experts_per_tok": 2,
            "moe_layers": [0, 1, 4],
            "attention_chunk_size": CHUNK + 2,
            "hidden_act": "gelu_pytorch_tanh",
        },
        dtype="bfloat16",
        max_shard_size="30KB",
    ),
}
