"""MiniMax-M2: QK-norm over the projection, a part of a head rotated, weights without an epsilon, the keys of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, LLAMA3, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 79,
    "hidden_size": 36,
    "intermediate_size": 26,
    "num_local_experts": 9,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
# What the release's own code reads and transformers does not. Without `use_mtp`, which the peer's decoding loop takes for an
# option of its own; the published configuration has it.
OF_THE_HUB = {
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "attn_type_list": [1, 1, 1],
    "num_mtp_modules": 3,
    "mtp_transformer_layers": 1,
}
SHARE = "rope_parameters.partial_rotary_factor"


def _minimax_m2(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="minimax_m2", settings=settings or {}, **options)


def _rotated(share: float) -> dict[str, Any]:
    return rope("default", partial_rotary_factor=share)


VARIANTS = {
    "untied": _minimax_m2(neutral=rope("default", rope_theta=1000.0)),
    "tied": _minimax_m2({"tie_word_embeddings": True}),
    "rotary_dim_alone": _minimax_m2(derived=(SHARE,), neutral={"rotary_dim": 10}),
    "share_alone": _minimax_m2(derived=("rotary_dim",), neutral=_rotated(0.5)),
    "a_whole_head": _minimax_m2(derived=(SHARE, "rotary_dim"), neutral={"rotary_dim": 6}),
    "keys_of_the_hub": _minimax_m2(derived=(SHARE,), written=OF_THE_HUB, neutral={"rotary_dim": 10}),
    "one_expert": _minimax_m2({"num_experts_per_tok": 1}, neutral={"num_experts_per_tok": 2}),
    "all_experts": _minimax_m2({"num_experts_per_tok": 9}, neutral={"num_experts_per_tok": 8}),
    "head_dim_of_class": _minimax_m2(
        {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1}, derived=("head_dim",)
    ),
    "eps": _minimax_m2({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _minimax_m2({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "gelu_tanh": _minimax_m2({"hidden_act": "gelu_pytorch_tanh"}, neutral={"hidden_act": "silu"}),
    "linear": _minimax_m2(rope("linear", factor=3.0), neutral=rope("linear", factor=2.0)),
    "llama3": _minimax_m2(rope("llama3", factor=8.0, **LLAMA3), neutral=rope("linear", factor=8.0)),
    "yarn": _minimax_m2({**yarn(), "rotary_dim": 12}, derived=(SHARE,), neutral={"rotary_dim": 6}),
    "class_defaults": _minimax_m2(
        derived=(
            "hidden_act",
            "output_router_logits",
            "rms_norm_eps",
            "rope_parameters.rope_theta",
            "rotary_dim",
            "router_aux_loss_coef",
            "router_jitter_noise",
            "tie_word_embeddings",
        ),
        neutral={"rms_norm_eps": 1e-4},
    ),
    "float16": _minimax_m2(dtype="float16"),
    "bfloat16_shards": _minimax_m2({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _minimax_m2(
        {**yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9), "rotary_dim": 12, "tie_word_embeddings": True},
        written=OF_THE_HUB,
        dtype="float16",
        max_shard_size="15KB",
    ),
}
