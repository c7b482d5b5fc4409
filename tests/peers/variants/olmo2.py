"""OLMo 2: QK-norm over several and over single groups, biases, scalings, a head width of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 73,
    "hidden_size": 60,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}


def _olmo2(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="olmo2", settings=settings or {}, **options)


VARIANTS = {
    "untied": _olmo2(neutral=rope("default", rope_theta=1000.0)),
    "tied": _olmo2({"tie_word_embeddings": True}),
    "attention_bias": _olmo2({"attention_bias": True, "head_dim": 8}),
    "one_kv_head": _olmo2({"num_key_value_heads": 1, "head_dim": 8}),
    "as_many_kv_heads": _olmo2({"num_key_value_heads": 6}, written={"num_key_value_heads": None}),
    "head_dim_of_its_own": _olmo2({"head_dim": 8}),
    "eps": _olmo2({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _olmo2({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "linear": _olmo2(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "llama3": _olmo2(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "yarn": _olmo2(yarn(), neutral=rope("default")),
    "default_theta": _olmo2({"rope_parameters": None}, derived=("rope_parameters",), neutral=rope("default")),
    "class_defaults": _olmo2(
        {"num_key_value_heads": 6},
        derived=("attention_bias", "hidden_act", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"),
        neutral={"rms_norm_eps": 1e-3},
    ),
    "everything": _olmo2(
        {
            **yarn(truncate=False, beta_fast=4.0),
            "attention_bias": True,
            "head_dim": 8,
            "hidden_act": "gelu_pytorch_tanh",
        },
        dtype="bfloat16",
        max_shard_size="16KB",
    ),
}
