"""Llama 4 as published: the language model beside a vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import llama4_text
from .variant import Variant

BASE = {
    "text_config": llama4_text.BASE,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_output_dim": 16,
        "projector_input_dim": 16,
        "projector_output_dim": 16,
    },
    "image_token_index": 66,
}


def _llama4(text: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    settings = {"text_config": {**llama4_text.BASE, **(text or {})}}
    return Variant(architecture="llama4", settings=settings, **{"windowed": True, **options})


VARIANTS = {
    "untied": _llama4(neutral={"text_config": {"use_qk_norm": False}}),
    "as_published": _llama4(
        {"interleave_moe_layer_step": 1, "no_rope_layers": [], "num_local_experts": 16},
        written={"text_config.no_rope_layers": []},
        derived=("text_config.layer_types", "text_config.moe_layers", "text_config.no_rope_layer_interval"),
    ),
    "temperature_in_bfloat16_shards": _llama4(
        {**llama4_text.TEMPERATURE, "num_experts_per_tok": 2}, counts_columns=True, dtype="bfloat16", max_shard_size="30KB"
    ),
}
