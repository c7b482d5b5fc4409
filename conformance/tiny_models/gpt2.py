"""GPT-2: learned positions, the exact GELU, scales of attention by layer."""

from __future__ import annotations

from typing import Any

from conformance.tiny import TinyModel

# A table that is only just long enough, so that a position that counts padding, or from 1, is another row or none.
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 83,
    "n_positions": 27,
    "n_ctx": 27,
    "n_embd": 36,
    "n_inner": None,
    "n_layer": 3,
    "n_head": 4,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-2,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": True,
}


def _gpt2(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="gpt2", variant=variant, config={**GPT2, **switches})


MODELS = (
    _gpt2("plain"),
    _gpt2("scaled_by_layer_untied", scale_attn_by_inverse_layer_idx=True, n_inner=58, tie_word_embeddings=False),
    _gpt2("unscaled_exact_gelu", scale_attn_weights=False, activation_function="gelu"),
)
