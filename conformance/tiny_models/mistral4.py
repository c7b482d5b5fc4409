"""Mistral 4 under both of its configurations: factors of YaRN, steps of the temperature within the text, a softmax router."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

# Of three frequencies the first is kept, the last divided, the one between blended; the temperature takes three steps.
SCALING = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 6,
    "beta_fast": 0.8,
    "beta_slow": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.5,
}
MISTRAL4 = {
    **COMMON,
    "model_type": "mistral4",
    "architectures": ["Mistral4ForCausalLM"],
    # Not that of the norms between the projections.
    "rms_norm_eps": 0.2,
    "vocab_size": 83,
    "hidden_size": 44,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "n_routed_experts": 11,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "q_lora_rank": 26,
    "kv_lora_rank": 15,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    "rope_parameters": SCALING,
    "tie_word_embeddings": False,
}
# The same sizes as a params.json says them.
MISTRAL_LARGE3 = {
    "vocab_size": 83,
    "dim": 44,
    "hidden_dim": 58,
    "n_layers": 3,
    "n_heads": 5,
    "norm_eps": 0.2,
    "q_lora_rank": 26,
    "kv_lora_rank": 15,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    "rope_theta": 100.0,
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 6, "beta": 0.8, "alpha": 0.1, "apply_scale": False},
    "llama_4_scaling": {"beta": 0.5, "original_max_position_embeddings": 4},
    "moe": {
        "num_experts": 11,
        "num_experts_per_tok": 3,
        "expert_hidden_dim": 18,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "tied_embeddings": False,
}


def _mistral4(variant: str, scaling: dict[str, Any] | None = None, **switches: Any) -> TinyModel:
    config = {**MISTRAL4, "rope_parameters": {**SCALING, **(scaling or {})}, **switches}
    return TinyModel(architecture="mistral4", variant=variant, config=config)


MODELS = (
    _mistral4("softmax_factor"),
    # Without experts, whose choice is unsteady in narrow formats, and with a temperature that falls and so leaves no softmax
    # one-hot: there a temperature of the neighbouring place shows in all formats.
    _mistral4(
        "dense",
        {"llama_4_scaling_beta": -0.4, "original_max_position_embeddings": 4},
        num_hidden_layers=1,
        first_k_dense_replace=1,
    ),
    _mistral4("unequal_factors", {"mscale": 1.6, "mscale_all_dim": 0.6}, attention_bias=True),
    _mistral4("whole_queries", {"truncate": False}, q_lora_rank=None, v_head_dim=14, rope_interleave=False),
    _mistral4("not_renormalised", norm_topk_prob=False, n_shared_experts=2, tie_word_embeddings=True),
    TinyModel(architecture="mistral_large3", variant="params_json", config=MISTRAL_LARGE3),
)
