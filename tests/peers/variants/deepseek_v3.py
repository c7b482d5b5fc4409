"""DeepSeek-V3: latents of queries or none, groups of experts, both layouts of rotated pairs, every rule of YaRN's factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 71,
    "hidden_size": 46,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": 22,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 11,
    "qk_rope_head_dim": 8,
    "v_head_dim": 13,
    "num_nextn_predict_layers": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
GROUPS = {"n_group": 4, "topk_group": 2}
DIRECT = {"q_lora_rank": None}


def _deepseek_v3(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="deepseek_v3", settings=settings or {}, **options)


VARIANTS = {
    "untied": _deepseek_v3(neutral=rope("default", rope_theta=1000.0)),
    "tied": _deepseek_v3({"tie_word_embeddings": True}),
    "queries_without_a_latent": _deepseek_v3(DIRECT),
    "one_head": _deepseek_v3({"num_attention_heads": 1, "num_key_value_heads": 1}),
    "values_as_wide_as_keys": _deepseek_v3({"v_head_dim": 11}),
    "narrow_values": _deepseek_v3({"v_head_dim": 3, **DIRECT}),
    "latent_wider_than_the_hidden_state": _deepseek_v3({"kv_lora_rank": 50, "q_lora_rank": 54}),
    "one_rotated_pair": _deepseek_v3({"qk_rope_head_dim": 2}),
    "half_split": _deepseek_v3({"rope_interleave": False}, neutral={"rope_interleave": True}),
    "half_split_without_a_latent": _deepseek_v3({"rope_interleave": False, **DIRECT}, neutral={"rope_interleave": True}),
    "biases": _deepseek_v3({"attention_bias": True}),
    "biases_without_a_latent": _deepseek_v3({"attention_bias": True, **DIRECT}),
    "groups": _deepseek_v3(GROUPS, neutral={"n_group": 1, "topk_group": 1}),
    "one_of_many_groups": _deepseek_v3({"n_group": 4, "topk_group": 1}, neutral={"topk_group": 2}),
    "groups_of_two": _deepseek_v3({"n_group": 8, "topk_group": 2}, neutral={"topk_group": 3}),
    "one_expert": _deepseek_v3({"num_experts_per_tok": 1, **GROUPS}, neutral={"norm_topk_prob": False}),
    "scaling_factor": _deepseek_v3({"routed_scaling_factor": 2.827}, neutral={"routed_scaling_factor": 1.0}),
    "not_renormalised": _deepseek_v3({"norm_topk_prob": False}, neutral={"norm_topk_prob": True}),
    "no_shared_expert": _deepseek_v3({"n_shared_experts": 0}),
    "three_shared_experts": _deepseek_v3({"n_shared_experts": 3}),
    "no_dense_layer": _deepseek_v3({"first_k_dense_replace": 0}),
    "only_dense_layers": _deepseek_v3({"first_k_dense_replace": 9}),
    "eps": _deepseek_v3({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _deepseek_v3({"hidden_act": "gelu"}, neutral={"hidden_act": "silu"}),
    "linear": _deepseek_v3(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "yarn": _deepseek_v3(yarn(), neutral=yarn(mscale_all_dim=0.5)),
    "yarn_with_equal_mscales": _deepseek_v3(yarn(mscale=1.0, mscale_all_dim=1.0), neutral=yarn(mscale=1.0)),
    "yarn_with_unlike_mscales": _deepseek_v3(
        yarn(mscale=1.3, mscale_all_dim=0.7), neutral=yarn(mscale=0.7, mscale_all_dim=0.7)
    ),
    "yarn_with_mscale_all_dim_alone": _deepseek_v3(yarn(mscale_all_dim=0.7), neutral=yarn()),
    "yarn_with_mscale_all_dim_zero": _deepseek_v3(
        yarn(mscale=1.3, mscale_all_dim=0.0), neutral=yarn(mscale=1.3, mscale_all_dim=1.3)
    ),
    "yarn_with_an_attention_factor": _deepseek_v3(
        yarn(attention_factor=1.2, mscale=1.3, mscale_all_dim=0.7), neutral=yarn(mscale=1.3, mscale_all_dim=0.7)
    ),
    "yarn_of_one_step": _deepseek_v3(
        yarn(original_max_position_embeddings=64, beta_fast=1.0, beta_slow=1.0),
        neutral=yarn(original_max_position_embeddings=64),
    ),
    "yarn_that_shortens": _deepseek_v3(yarn(factor=0.5, mscale=1.3, mscale_all_dim=0.7), neutral=yarn(factor=1.0)),
    "class_defaults": _deepseek_v3(
        {"n_routed_experts": 24, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "first_k_dense_replace": 3},
        derived=(
            "attention_bias",
            "first_k_dense_replace",
            "head_dim",
            "hidden_act",
            "n_group",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            "output_router_logits",
            "qk_head_dim",
            "rms_norm_eps",
            "rope_interleave",
            "rope_parameters",
            "routed_scaling_factor",
            "tie_word_embeddings",
            "topk_group",
        ),
        neutral={"rms_norm_eps": 1e-4},
    ),
    "widths_of_class": _deepseek_v3(
        {
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_hidden_layers": 1,
        },
        derived=("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
        neutral=rope("default", rope_theta=1000.0),
    ),
    "float16": _deepseek_v3(GROUPS, dtype="float16"),
    "bfloat16_shards": _deepseek_v3({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _deepseek_v3(
        {
            **yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9),
            **GROUPS,
            "attention_bias": True,
            "first_k_dense_replace": 2,
            "n_shared_experts": 2,
            "routed_scaling_factor": 2.5,
        },
        dtype="float16",
        max_shard_size="15KB",
    ),
}
