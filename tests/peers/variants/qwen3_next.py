"""Qwen3-Next: a gated delta rule in most layers, gated attention in the others, experts beside a gated shared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 79,
    "hidden_size": 38,
    "intermediate_size": 50,
    "moe_intermediate_size": 14,
    "shared_expert_intermediate_size": 26,
    "num_experts": 9,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 13,
    "linear_value_head_dim": 11,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
}
LINEAR, FULL = "linear_attention", "full_attention"
PERIOD = {"layer_types": [LINEAR, LINEAR, LINEAR, FULL]}


def _qwen3_next(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="qwen3_next", settings=settings or {}, recurrent=True, **options)


def _heads(keys: int, values: int, **widths: int) -> Variant:
    names = {"key": "linear_key_head_dim", "value": "linear_value_head_dim"}
    sizes = {names[name]: width for name, width in widths.items()}
    return _qwen3_next({"linear_num_key_heads": keys, "linear_num_value_heads": values, **sizes})


def _scaled(kind: str, **keys: Any) -> dict[str, Any]:
    """Half of a head rotated, so that a scaling has frequencies to act on."""
    return rope(kind, partial_rotary_factor=0.5, **keys)


VARIANTS = {
    "untied": _qwen3_next(neutral=rope("default", rope_theta=1000.0, partial_rotary_factor=0.25)),
    "tied": _qwen3_next({"tie_word_embeddings": True}),
    "as_many_values_as_keys": _heads(5, 5),
    "three_values_a_key": _heads(3, 9, key=7, value=17),
    "five_values_a_key": _heads(2, 10, value=5),
    "one_key_head": _heads(1, 3, key=19, value=9),
    "one_head": _heads(1, 1, key=9, value=15),
    "two_taps": _qwen3_next({"linear_conv_kernel_dim": 2}),
    "three_taps": _qwen3_next({"linear_conv_kernel_dim": 3}),
    "five_taps": _qwen3_next({"linear_conv_kernel_dim": 5}),
    "one_tap": _qwen3_next({"linear_conv_kernel_dim": 1}),
    "layers_as_the_hub_has_them": _qwen3_next(
        PERIOD, derived=("layer_types",), written={"full_attention_interval": 4}, neutral={"rms_norm_eps": 1e-3}
    ),
    "every_second_layer_full": _qwen3_next(
        {"layer_types": [LINEAR, FULL, LINEAR, FULL]}, derived=("layer_types",), written={"full_attention_interval": 2}
    ),
    "layers_in_another_order": _qwen3_next({"layer_types": [FULL, LINEAR, FULL, LINEAR]}),
    "only_full_layers": _qwen3_next(
        {"layer_types": [FULL] * 3, "num_hidden_layers": 3}, neutral=rope("default", partial_rotary_factor=0.5)
    ),
    "dense_layers": _qwen3_next({"mlp_only_layers": [0, 3]}),
    "every_second_layer_sparse": _qwen3_next({"decoder_sparse_step": 2}),
    "every_second_layer_sparse_and_dense_ones": _qwen3_next({"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
    "not_renormalised": _qwen3_next({"norm_topk_prob": False}, neutral={"norm_topk_prob": True}),
    "renormalised_by_the_class": _qwen3_next(derived=("norm_topk_prob",), neutral={"norm_topk_prob": False}),
    "one_expert": _qwen3_next({"num_experts_per_tok": 1}, neutral={"num_experts_per_tok": 2}),
    "all_experts": _qwen3_next({"num_experts_per_tok": 9}, neutral={"num_experts_per_tok": 8}),
    "wide_shared_expert": _qwen3_next({"shared_expert_intermediate_size": 62}),
    "attention_bias": _qwen3_next({"attention_bias": True}),
    "one_kv_head": _qwen3_next({"num_key_value_heads": 1, "num_attention_heads": 5}),
    "heads_wider_than_the_hidden_state": _qwen3_next({"head_dim": 48}),
    "half_of_a_head": _qwen3_next(_scaled("default"), neutral=rope("default", partial_rotary_factor=0.25)),
    "a_whole_head": _qwen3_next(rope("default", partial_rotary_factor=1.0), neutral=_scaled("default")),
    "share_of_the_class": _qwen3_next(derived=("rope_parameters.partial_rotary_factor",), neutral=_scaled("default")),
    "eps": _qwen3_next({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "linear": _qwen3_next(_scaled("linear", factor=3.0), neutral=_scaled("linear", factor=2.0)),
    "llama3": _qwen3_next(_scaled("llama3", factor=8.0, **LLAMA3), neutral=_scaled("linear", factor=8.0)),
    "yarn": _qwen3_next(yarn(partial_rotary_factor=0.5), neutral=_scaled("default")),
    "class_defaults": _qwen3_next(
        PERIOD,
        derived=(
            "attention_bias",
            "decoder_sparse_step",
            "hidden_act",
            "layer_types",
            "linear_conv_kernel_dim",
            "mlp_only_layers",
            "norm_topk_prob",
            "output_router_logits",
            "rms_norm_eps",
            "rope_parameters",
            "router_aux_loss_coef",
            "tie_word_embeddings",
        ),
        neutral={"rms_norm_eps": 1e-4},
    ),
    "float16": _qwen3_next(dtype="float16"),
    "bfloat16_shards": _qwen3_next({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _qwen3_next(
        {
            **yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9, partial_rotary_factor=0.5),
            "attention_bias": True,
            "layer_types": [LINEAR, FULL, LINEAR, LINEAR, FULL],
            "linear_conv_kernel_dim": 3,
            "linear_num_value_heads": 9,
            "mlp_only_layers": [2],
            "norm_topk_prob": False,
            "num_hidden_layers": 5,
            "tie_word_embeddings": True,
        },
        dtype="float16",
        max_shard_size="15KB",
    ),
}
