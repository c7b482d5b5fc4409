"""Kimi Linear: a delta rule with a decay a channel in most layers, latent attention without positions in the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, Variant

BASE = {
    **COMMON,
    "vocab_size": 83,
    "hidden_size": 42,
    "intermediate_size": 52,
    "moe_intermediate_size": 16,
    "num_experts": 12,
    "num_experts_per_token": 3,
    "num_shared_experts": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": None,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 11,
    "qk_rope_head_dim": 6,
    "v_head_dim": 13,
    "linear_num_heads": 3,
    "linear_head_dim": 15,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
}
LINEAR, FULL = "linear_attention", "full_attention"
GROUPS = {"num_expert_group": 4, "topk_group": 2}
PUBLISHED = {
    "head_dim": 15,
    "num_heads": 3,
    "short_conv_kernel_size": 4,
    "full_attn_layers": [2],
    "kda_layers": [1, 3, 4],
}
FLAT = ("layer_types", "linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")


def _kimi_linear(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="kimi_linear", settings=settings or {}, recurrent=True, old_keys=(), **options)


def _heads(count: int, width: int) -> Variant:
    return _kimi_linear({"linear_num_heads": count, "linear_head_dim": width})


VARIANTS = {
    "untied": _kimi_linear(),
    "one_head": _heads(1, 13),
    "seven_heads": _heads(7, 11),
    "wide_heads": _heads(2, 29),
    "two_taps": _kimi_linear({"linear_conv_kernel_dim": 2}),
    "three_taps": _kimi_linear({"linear_conv_kernel_dim": 3}),
    "five_taps": _kimi_linear({"linear_conv_kernel_dim": 5}),
    "one_tap": _kimi_linear({"linear_conv_kernel_dim": 1}),
    "linear_attention_as_the_hub_has_it": _kimi_linear(
        derived=(*FLAT, "mlp_layer_types"),
        written={"linear_attn_config": PUBLISHED, "first_k_dense_replace": 1, "moe_layer_freq": 1, "mla_use_nope": True},
        neutral={"rms_norm_eps": 1e-3},
    ),
    "layers_of_the_class": _kimi_linear(
        {"num_hidden_layers": 6, "layer_types": [LINEAR] * 4 + [FULL, LINEAR]}, derived=("layer_types",)
    ),
    "only_full_layers": _kimi_linear({"layer_types": [FULL] * 3, "num_hidden_layers": 3}),
    "full_layers_first_and_last": _kimi_linear({"layer_types": [FULL, LINEAR, LINEAR, FULL]}),
    "queries_with_a_latent": _kimi_linear({"q_lora_rank": 22}),
    "biases": _kimi_linear({"attention_bias": True}),
    "biases_and_a_latent": _kimi_linear({"attention_bias": True, "q_lora_rank": 22}),
    "narrow_values": _kimi_linear({"v_head_dim": 3}),
    "wide_shared_key": _kimi_linear({"qk_rope_head_dim": 18}),
    "groups": _kimi_linear(GROUPS, neutral={"num_expert_group": 1, "topk_group": 1}),
    "one_of_many_groups": _kimi_linear({"num_expert_group": 4, "topk_group": 1}, neutral={"topk_group": 2}),
    "one_expert": _kimi_linear({"num_experts_per_token": 1, **GROUPS}, neutral={"moe_renormalize": False}),
    "all_experts": _kimi_linear({"num_experts_per_token": 12}, neutral={"num_experts_per_token": 11}),
    "scaling_factor": _kimi_linear({"routed_scaling_factor": 1.7}, neutral={"routed_scaling_factor": 1.0}),
    "not_renormalised": _kimi_linear({"moe_renormalize": False}, neutral={"moe_renormalize": True}),
    "three_shared_experts": _kimi_linear({"num_shared_experts": 3}),
    "no_dense_layer": _kimi_linear({"mlp_layer_types": ["sparse"] * 4}),
    "dense_layers_anywhere": _kimi_linear({"mlp_layer_types": ["sparse", "dense", "sparse", "dense"]}),
    "two_dense_layers_as_the_hub_has_them": _kimi_linear(
        {"mlp_layer_types": ["dense", "dense", "sparse", "sparse"]},
        derived=("mlp_layer_types",),
        written={"first_k_dense_replace": 2},
    ),
    "eps": _kimi_linear({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "class_defaults": _kimi_linear(
        {"num_experts_per_token": 8},
        derived=(
            "attention_bias",
            "hidden_act",
            "linear_conv_kernel_dim",
            "mlp_layer_types",
            "num_expert_group",
            "num_experts_per_token",
            "num_shared_experts",
            "moe_renormalize",
            "q_lora_rank",
            "rms_norm_eps",
            "routed_scaling_factor",
            "tie_word_embeddings",
            "topk_group",
        ),
        neutral={"rms_norm_eps": 1e-3},
    ),
    "float16": _kimi_linear(GROUPS, dtype="float16"),
    "bfloat16_shards": _kimi_linear(dtype="bfloat16", max_shard_size="12KB"),
    "everything": _kimi_linear(
        {
            **GROUPS,
            "attention_bias": True,
            "layer_types": [FULL, LINEAR, LINEAR, FULL, LINEAR],
            "linear_conv_kernel_dim": 3,
            "mlp_layer_types": ["dense", "sparse", "dense", "sparse", "sparse"],
            "num_hidden_layers": 5,
            "num_shared_experts": 2,
            "q_lora_rank": 22,
            "routed_scaling_factor": 1.9,
        },
        dtype="float16",
        max_shard_size="15KB",
    ),
}
