"""DeepSeek-V3.2: fewer keys chosen than there are, as many, and more; heads of the indexer that are rotated whole and in part.

Two keys tie where no head wants either, and then the peer chooses as its sort falls out: the indexer has so many heads that
this does not happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import deepseek_v3
from .variant import Variant, rope, yarn

BASE = {
    **deepseek_v3.BASE,
    "index_n_heads": 26,
    "index_head_dim": 14,
    "index_topk": 6,
}
GROUPS = deepseek_v3.GROUPS
LAYERS = ["sparse", "dense", "sparse"]


def _deepseek_v32(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="deepseek_v32", settings=settings or {}, **options)


VARIANTS = {
    "untied": _deepseek_v32(neutral=rope("default", rope_theta=1000.0)),
    "tied": _deepseek_v32({"tie_word_embeddings": True}),
    "more_keys": _deepseek_v32(neutral={"index_topk": 7}),
    "one_key": _deepseek_v32({"index_topk": 1}, neutral={"index_topk": 2}),
    "all_but_one_key": _deepseek_v32({"index_topk": 28}, neutral={"index_topk": 29}),
    "all_keys": _deepseek_v32({"index_topk": 29}, neutral={"index_topk": 25}),
    "more_than_all_keys": _deepseek_v32({"index_topk": 40}, neutral={"index_topk": 20}),
    "whole_index_heads_rotated": _deepseek_v32({"index_head_dim": 8}),
    "wide_index_heads": _deepseek_v32({"index_head_dim": 50}),
    "many_index_heads": _deepseek_v32({"index_n_heads": 64}),
    "biases": _deepseek_v32({"attention_bias": True}),
    "groups": _deepseek_v32(GROUPS, neutral={"n_group": 1, "topk_group": 1}),
    "no_dense_layer": _deepseek_v32({"first_k_dense_replace": 0}),
    "kinds_of_layers": _deepseek_v32({"mlp_layer_types": LAYERS}, written={"first_k_dense_replace": 3}),
    "eps": _deepseek_v32({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "linear": _deepseek_v32(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "yarn": _deepseek_v32(yarn(mscale=1.0, mscale_all_dim=1.0), neutral=yarn(mscale=1.0)),
    "yarn_with_unlike_mscales": _deepseek_v32(
        yarn(mscale=1.3, mscale_all_dim=0.7), neutral=yarn(mscale=0.7, mscale_all_dim=0.7)
    ),
    "class_defaults": _deepseek_v32(
        {
            "n_routed_experts": 24,
            "n_group": 8,
            "topk_group": 4,
            "num_experts_per_tok": 8,
            "index_head_dim": 128,
            "index_n_heads": 64,
            "index_topk": 2048,
            "first_k_dense_replace": 3,
        },
        derived=(
            "attention_bias",
            "first_k_dense_replace",
            "head_dim",
            "hidden_act",
            "index_head_dim",
            "index_n_heads",
            "index_topk",
            "layer_types",
            "mlp_bias",
            "mlp_layer_types",
            "n_group",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            "output_router_logits",
            "rms_norm_eps",
            "rope_parameters",
            "routed_scaling_factor",
            "tie_word_embeddings",
            "topk_group",
        ),
        neutral={"rms_norm_eps": 1e-4},
    ),
    "float16": _deepseek_v32(GROUPS, dtype="float16"),
    "bfloat16_shards": _deepseek_v32({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _deepseek_v32(
        {
            **yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9),
            **GROUPS,
            "attention_bias": True,
            "first_k_dense_replace": 2,
            "index_topk": 9,
            "n_shared_experts": 2,
            "routed_scaling_factor": 2.5,
            "tie_word_embeddings": True,
        },
        dtype="float16",
        max_shard_size="15KB",
    ),
}
