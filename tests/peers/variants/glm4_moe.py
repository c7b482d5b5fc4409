"""GLM-4.5: groups of experts, the scaling factor, shared experts, dense first layers, every share of a head rotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 73,
    "hidden_size": 44,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
# As many groups as leave more than one expert in each, and experts outside that would be chosen without them.
GROUPS = {"n_group": 3, "topk_group": 2}


def _glm4_moe(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="glm4_moe", settings=settings or {}, **options)


def _rotated(share: float) -> dict[str, Any]:
    return rope("default", partial_rotary_factor=share)


VARIANTS = {
    "untied": _glm4_moe(neutral=rope("default", rope_theta=1000.0)),
    "tied": _glm4_moe({"tie_word_embeddings": True}),
    "qk_norm": _glm4_moe({"use_qk_norm": True}),
    "attention_bias": _glm4_moe({"attention_bias": True}),
    "groups": _glm4_moe(GROUPS, neutral={"n_group": 1, "topk_group": 1}),
    "one_of_many_groups": _glm4_moe({"n_group": 4, "topk_group": 1}, neutral={"topk_group": 2}),
    "groups_of_two": _glm4_moe({"n_group": 6, "topk_group": 2}, neutral={"topk_group": 3}),
    "every_expert_of_its_group": _glm4_moe({"n_group": 4, "topk_group": 1}, neutral={"n_group": 2}),
    "all_groups": _glm4_moe({"n_group": 3, "topk_group": 3}, neutral=GROUPS),
    "one_expert": _glm4_moe({"num_experts_per_tok": 1, **GROUPS}, neutral={"norm_topk_prob": False}),
    "all_experts": _glm4_moe({"num_experts_per_tok": 12}, neutral={"num_experts_per_tok": 11}),
    "scaling_factor": _glm4_moe({"routed_scaling_factor": 2.5}, neutral={"routed_scaling_factor": 1.0}),
    "not_renormalised": _glm4_moe({"norm_topk_prob": False}, neutral={"norm_topk_prob": True}),
    "scaled_but_not_renormalised": _glm4_moe(
        {"norm_topk_prob": False, "routed_scaling_factor": 2.5}, neutral={"routed_scaling_factor": 1.0}
    ),
    "three_shared_experts": _glm4_moe({"n_shared_experts": 3}),
    "no_dense_layer": _glm4_moe({"first_k_dense_replace": 0}),
    "three_dense_layers": _glm4_moe({"first_k_dense_replace": 3}),
    "only_dense_layers": _glm4_moe({"first_k_dense_replace": 9}),
    "half_of_a_head": _glm4_moe(derived=("rope_parameters.partial_rotary_factor",), neutral=_rotated(0.7)),
    "less_of_a_head": _glm4_moe(_rotated(0.3), neutral=_rotated(0.5)),
    "a_whole_head": _glm4_moe(_rotated(1.0), neutral=_rotated(0.5)),
    "share_at_the_top_level": _glm4_moe(
        _rotated(0.7),
        derived=("rope_parameters.partial_rotary_factor",),
        written={"partial_rotary_factor": 0.7},
        neutral={"partial_rotary_factor": 0.5},
    ),
    "head_dim_of_class": _glm4_moe({"hidden_size": 48, "head_dim": 12, "num_attention_heads": 4}, derived=("head_dim",)),
    "eps": _glm4_moe({"rms_norm_eps": 0.05, "use_qk_norm": True}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _glm4_moe({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "gelu_tanh": _glm4_moe({"hidden_act": "gelu_pytorch_tanh"}, neutral={"hidden_act": "silu"}),
    "linear": _glm4_moe(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "llama3": _glm4_moe(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "yarn": _glm4_moe(yarn(), neutral=yarn(partial_rotary_factor=0.7)),
    "class_defaults": _glm4_moe(
        derived=(
            "attention_bias",
            "first_k_dense_replace",
            "hidden_act",
            "n_group",
            "n_shared_experts",
            "norm_topk_prob",
            "num_nextn_predict_layers",
            "output_router_logits",
            "rms_norm_eps",
            "rope_parameters",
            "routed_scaling_factor",
            "tie_word_embeddings",
            "topk_group",
            "use_qk_norm",
        ),
        neutral={"rms_norm_eps": 1e-4},
    ),
    "float16": _glm4_moe({"use_qk_norm": True}, dtype="float16"),
    "bfloat16_shards": _glm4_moe({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _glm4_moe(
        {
            **yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9, partial_rotary_factor=0.7),
            **GROUPS,
            "attention_bias": True,
            "first_k_dense_replace": 2,
            "n_shared_experts": 2,
            "num_nextn_predict_layers": 0,
            "routed_scaling_factor": 2.5,
            "tie_word_embeddings": True,
            "use_qk_norm": True,
        },
        dtype="float16",
        max_shard_size="15KB",
    ),
}
