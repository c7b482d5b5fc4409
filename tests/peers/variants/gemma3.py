"""Gemma 3 with its eyes closed: the language model beside a SigLIP vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import gemma3_text
from .variant import Variant

BASE = {
    "text_config": gemma3_text.BASE,
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 1,
}


def _gemma3(text: Mapping[str, Any] | None = None, *, outer: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    settings = {"text_config": {**gemma3_text.BASE, **(text or {})}, **(outer or {})}
    return Variant(architecture="gemma3", settings=settings, **{"windowed": True, "old_keys": ("rope_type",), **options})


VARIANTS = {
    "tied": _gemma3(neutral={"text_config": {"query_pre_attn_scalar": 10}}),
    "untied_by_the_outer_key": _gemma3(outer={"tie_word_embeddings": False}),
    "as_published": _gemma3(
        {"layer_types": None, "num_hidden_layers": 7, "num_attention_heads": 8, "num_key_value_heads": 4, "rms_norm_eps": 1e-6},
        derived=(
            "tie_word_embeddings",
            "text_config._sliding_window_pattern",
            "text_config.attention_bias",
            "text_config.attn_logit_softcapping",
            "text_config.final_logit_softcapping",
            "text_config.hidden_activation",
            "text_config.layer_types",
            "text_config.max_position_embeddings",
            "text_config.num_attention_heads",
            "text_config.num_key_value_heads",
            "text_config.rms_norm_eps",
            "text_config.tie_word_embeddings",
            "text_config.use_bidirectional_attention",
        ),
        neutral={"text_config": {"rms_norm_eps": 1e-3}},
    ),
    "bfloat16_shards": _gemma3({"attention_bias": True}, dtype="bfloat16", max_shard_size="20KB"),
}
