"""Mistral 4: latent attention with a temperature, YaRN with and without a factor on the softmax, a softmax router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, Variant, yarn


def _rotation(**keys: Any) -> dict[str, Any]:
    """YaRN, and a temperature that takes two steps within the text."""
    scaling = yarn(
        original_max_position_embeddings=12, **{"llama_4_scaling_beta": 0.4, "mscale": 1.0, "mscale_all_dim": 1.0, **keys}
    )
    return {"rope_parameters": {key: value for key, value in scaling["rope_parameters"].items() if value is not None}}


BASE = {
    **COMMON,
    "vocab_size": 73,
    "hidden_size": 44,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "n_routed_experts": 11,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": 26,
    "kv_lora_rank": 15,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    "first_k_dense_replace": 1,
    **_rotation(),
}


def _mistral4(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    # The architecture is younger than the keys of transformers 4.
    return Variant(architecture="mistral4", settings=settings or {}, **{"old_keys": (), **options})


VARIANTS = {
    "untied": _mistral4(neutral=_rotation(mscale_all_dim=None, mscale=None, attention_factor=1.0)),
    "tied": _mistral4({"tie_word_embeddings": True}),
    "as_released": _mistral4(
        _rotation(mscale_all_dim=None, mscale=None, attention_factor=1.0), neutral=_rotation(llama_4_scaling_beta=0.0)
    ),
    "factor_on_cos_and_sin": _mistral4(_rotation(mscale=None, mscale_all_dim=None), neutral=_rotation(attention_factor=1.0)),
    "unequal_mscales": _mistral4(_rotation(mscale=1.7, mscale_all_dim=0.6), neutral=_rotation(mscale=1.7, mscale_all_dim=1.7)),
    "mscale_all_dim_alone": _mistral4(_rotation(mscale=None, mscale_all_dim=0.8), neutral=_rotation(mscale_all_dim=None)),
    "betas_without_truncation": _mistral4(
        _rotation(beta_fast=3.0, beta_slow=0.4, truncate=False), neutral=_rotation(beta_fast=3.0, beta_slow=0.4)
    ),
    "no_temperature": _mistral4(_rotation(llama_4_scaling_beta=0.0), neutral=_rotation()),
    "queries_without_a_latent": _mistral4({"q_lora_rank": None}),
    "half_split": _mistral4({"rope_interleave": False}, neutral={"rope_interleave": True}),
    "attention_bias": _mistral4({"attention_bias": True}),
    "values_wider_than_keys": _mistral4({"v_head_dim": 20}),
    "not_renormalised": _mistral4({"norm_topk_prob": False}, neutral={"norm_topk_prob": True}),
    "one_expert": _mistral4({"num_experts_per_tok": 1}, neutral={"norm_topk_prob": False}),
    "all_experts": _mistral4({"num_experts_per_tok": 11}, neutral={"num_experts_per_tok": 10}),
    "three_shared_experts": _mistral4({"n_shared_experts": 3}),
    "no_dense_layer": _mistral4({"first_k_dense_replace": 0}),
    "three_dense_layers": _mistral4({"first_k_dense_replace": 3}),
    "only_dense_layers": _mistral4({"first_k_dense_replace": 9}),
    "eps": _mistral4({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _mistral4({"hidden_act": "gelu", "num_hidden_layers": 2}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "heads_null": _mistral4(written={"num_key_value_heads": None}, derived=("head_dim", "qk_head_dim")),
    "class_defaults": _mistral4(
        {
            "q_lora_rank": 1024,
            "kv_lora_rank": 256,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "num_experts_per_tok": 4,
            "first_k_dense_replace": 0,
            "rope_parameters": None,
            "rms_norm_eps": 1e-6,
        },
        derived=(
            "attention_bias",
            "first_k_dense_replace",
            "hidden_act",
            "kv_lora_rank",
            "n_group",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            "output_router_logits",
            "q_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "rms_norm_eps",
            "rope_interleave",
            "rope_parameters",
            "routed_scaling_factor",
            "tie_word_embeddings",
            "topk_group",
            "v_head_dim",
        ),
        neutral={"rms_norm_eps": 1e-3},
    ),
    "float16": _mistral4({"attention_bias": True}, dtype="float16"),
    "bfloat16_shards": _mistral4({"q_lora_rank": None}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _mistral4(
        {
            **_rotation(truncate=False, mscale=1.3, mscale_all_dim=0.7, llama_4_scaling_beta=0.9),
            "attention_bias": True,
            "first_k_dense_replace": 2,
            "n_shared_experts": 2,
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
        },
        dtype="float16",
        max_shard_size="15KB",
    ),
}
