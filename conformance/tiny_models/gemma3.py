"""Gemma 3: the pattern of windows, a rotation for each kind of layer, the scale of the scores, biases, a cap on the logits."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel
from conformance.tiny_models.common import COMMON

GEMMA3 = {
    **{key: value for key, value in COMMON.items() if key != "hidden_act"},
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "vocab_size": 89,
    "hidden_size": 48,
    "intermediate_size": 58,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "query_pre_attn_scalar": 31,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 5,
    "rope_theta": 1000.0,
    "rope_local_base_freq": 30.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "attention_bias": False,
    "tie_word_embeddings": True,
}


def _gemma3(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="gemma3_text", variant=variant, config={**GEMMA3, **switches})


MODELS = (
    _gemma3("pattern", sliding_window_pattern=3),
    _gemma3(
        "layer_types_bias",
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    _gemma3("softcap", sliding_window_pattern=2, final_logit_softcapping=3.0),
)
