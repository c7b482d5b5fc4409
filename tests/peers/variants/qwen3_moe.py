"""Qwen3-MoE: both ways to weigh the chosen experts, dense layers among sparse ones, a window on every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, WINDOW, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 71,
    "hidden_size": 40,
    "intermediate_size": 54,
    "moe_intermediate_size": 22,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 14,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}


def _qwen3_moe(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="qwen3_moe", settings=settings or {}, **options)


VARIANTS = {
    "untied": _qwen3_moe(neutral=rope("default", rope_theta=1000.0)),
    "tied": _qwen3_moe({"tie_word_embeddings": True}),
    "not_renormalised": _qwen3_moe(derived=("norm_topk_prob",), neutral={"norm_topk_prob": True}),
    "renormalised": _qwen3_moe({"norm_topk_prob": True}, neutral={"norm_topk_prob": False}),
    "one_expert": _qwen3_moe({"num_experts_per_tok": 1}, neutral={"num_experts_per_tok": 2}),
    "one_expert_renormalised": _qwen3_moe(
        {"num_experts_per_tok": 1, "norm_topk_prob": True}, neutral={"norm_topk_prob": False}
    ),
    "all_experts": _qwen3_moe({"num_experts_per_tok": 7}, neutral={"num_experts_per_tok": 6}),
    "every_second_layer": _qwen3_moe({"decoder_sparse_step": 2}),
    "dense_layers": _qwen3_moe({"mlp_only_layers": [0, 3], "norm_topk_prob": True}),
    "every_second_layer_and_dense_ones": _qwen3_moe({"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
    "steps_beyond_the_last_layer": _qwen3_moe({"decoder_sparse_step": 5}),
    "experts_under_the_key_of_the_hub": _qwen3_moe(derived=("num_local_experts",), written={"num_experts": 7}),
    "attention_bias": _qwen3_moe({"attention_bias": True, "hidden_size": 46}),
    "head_dim_of_class": _qwen3_moe(
        {"head_dim": 10, "num_attention_heads": 4, "num_key_value_heads": 2}, derived=("head_dim",)
    ),
    "eps": _qwen3_moe({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _qwen3_moe({"hidden_act": "gelu", "mlp_only_layers": [1]}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "gelu_tanh": _qwen3_moe({"hidden_act": "gelu_pytorch_tanh"}, neutral={"hidden_act": "silu"}),
    "linear": _qwen3_moe(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "llama3": _qwen3_moe(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "yarn": _qwen3_moe(yarn(), neutral=rope("default")),
    "window": _qwen3_moe(
        {"use_sliding_window": True, "sliding_window": WINDOW}, neutral={"sliding_window": WINDOW + 1}, windowed=True
    ),
    "window_whatever_max_window_layers": _qwen3_moe(
        {"use_sliding_window": True, "sliding_window": WINDOW},
        written={"max_window_layers": 3},
        neutral={"use_sliding_window": False},
        windowed=True,
    ),
    "window_switched_off": _qwen3_moe(
        written={"sliding_window": WINDOW}, neutral={"use_sliding_window": True, "sliding_window": WINDOW}
    ),
    "class_defaults": _qwen3_moe(
        derived=(
            "attention_bias",
            "decoder_sparse_step",
            "hidden_act",
            "mlp_only_layers",
            "norm_topk_prob",
            "output_router_logits",
            "rms_norm_eps",
            "rope_parameters",
            "router_aux_loss_coef",
            "sliding_window",
            "tie_word_embeddings",
            "use_sliding_window",
        ),
        neutral={"rms_norm_eps": 1e-4},
    ),
    "float16": _qwen3_moe(dtype="float16"),
    "bfloat16_shards": _qwen3_moe({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _qwen3_moe(
        {
            **yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9),
            "vocab_size": 83,
            "attention_bias": True,
            "norm_topk_prob": True,
            "mlp_only_layers": [2],
            "use_sliding_window": True,
            "sliding_window": WINDOW + 2,
            "tie_word_embeddings": True,
        },
        windowed=True,
        dtype="float16",
        max_shard_size="15KB",
    ),
}
