"""MiniMax-M2: QK-norm over the projection, a part of a head rotated, weights without an epsilon."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

MINIMAX_M2 = {
    **COMMON,
    "model_type": "minimax_m2",
    "architectures": ["MiniMaxM2ForCausalLM"],
    "vocab_size": 83,
    "hidden_size": 36,
    "intermediate_size": 26,
    "num_local_experts": 9,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 6,
    "rope_theta": 10000.0,
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "tie_word_embeddings": False,
}


def _minimax_m2(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="minimax_m2", variant=variant, config={**MINIMAX_M2, **switches})


MODELS = (
    _minimax_m2("part_of_a_head"),
    _minimax_m2("tied", rotary_dim=10, num_experts_per_tok=1, tie_word_embeddings=True),
)
