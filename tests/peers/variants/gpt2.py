"""GPT-2: the scales of attention, the width of the MLP, its activations, a head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import Variant

POSITIONS = 61
BASE = {
    "vocab_size": 67,
    "n_positions": POSITIONS,
    "n_embd": 40,
    "n_inner": 58,
    "n_layer": 3,
    "n_head": 5,
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _gpt2(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(
        architecture="gpt2", settings=settings or {}, learned_positions=POSITIONS, old_keys=("no rotary keys",), **options
    )


VARIANTS = {
    "tied": _gpt2(),
    "untied": _gpt2({"tie_word_embeddings": False}),
    "derived_width": _gpt2({"n_inner": None}),
    "one_head": _gpt2({"n_head": 1, "tie_word_embeddings": False}),
    "eps": _gpt2({"layer_norm_epsilon": 0.1}, neutral={"layer_norm_epsilon": 0.05}),
    "gelu": _gpt2({"activation_function": "gelu"}, neutral={"activation_function": "gelu_new"}),
    "gelu_pytorch_tanh": _gpt2({"activation_function": "gelu_pytorch_tanh"}, neutral={"activation_function": "gelu"}),
    "silu": _gpt2({"activation_function": "silu"}, neutral={"activation_function": "gelu_new"}),
    "unscaled": _gpt2({"scale_attn_weights": False}, neutral={"scale_attn_weights": True}),
    "scaled_by_layer": _gpt2({"scale_attn_by_inverse_layer_idx": True}, neutral={"scale_attn_by_inverse_layer_idx": False}),
    "scaled_by_layer_alone": _gpt2(
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, neutral={"scale_attn_weights": True}
    ),
    "old_keys": _gpt2(written={"n_ctx": POSITIONS, "output_past": True, "gradient_checkpointing": False}),
    "class_defaults": _gpt2(
        {"n_inner": None},
        derived=(
            "activation_function",
            "add_cross_attention",
            "layer_norm_epsilon",
            "n_inner",
            "reorder_and_upcast_attn",
            "scale_attn_by_inverse_layer_idx",
            "scale_attn_weights",
            "tie_word_embeddings",
        ),
        neutral={"scale_attn_weights": False},
    ),
    "float16": _gpt2({"tie_word_embeddings": False}, dtype="float16"),
    "bfloat16_shards": _gpt2(dtype="bfloat16", max_shard_size="12KB"),
    "everything": _gpt2(
        {
            "activation_function": "gelu",
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 0.01,
        },
        dtype="bfloat16",
        max_shard_size="15KB",
    ),
}
