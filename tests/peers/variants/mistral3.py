"""Mistral Small 3.1: the language model beside a Pixtral vision tower, and who decides whether the head is tied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import mistral
from .variant import WINDOW, Variant, rope, yarn

BASE = {
    "text_config": {"model_type": "mistral", **mistral.BASE},
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 28,
        "patch_size": 14,
    },
    "tie_word_embeddings": False,
}


def _mistral3(text: Mapping[str, Any] | None = None, *, outer: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    settings = {"text_config": {**BASE["text_config"], **(text or {})}, **(outer or {})}
    return Variant(architecture="mistral3", settings=settings, **options)


VARIANTS = {
    "untied": _mistral3(neutral={"text_config": {"sliding_window": WINDOW}}),
    "untied_as_published": _mistral3(derived=("tie_word_embeddings", "text_config.tie_word_embeddings")),
    "untied_though_the_outer_key_ties": _mistral3(written={"tie_word_embeddings": True}),
    "untied_by_the_outer_key": _mistral3({"tie_word_embeddings": True}),
    "tied_by_the_outer_key": _mistral3(outer={"tie_word_embeddings": True}),
    "tied_by_the_class": _mistral3(outer={"tie_word_embeddings": True}, derived=("tie_word_embeddings",)),
    "tied": _mistral3({"tie_word_embeddings": True}, outer={"tie_word_embeddings": True}),
    "window": _mistral3({"sliding_window": WINDOW}, neutral={"text_config": {"sliding_window": WINDOW + 1}}, windowed=True),
    "keys_of_class": _mistral3(
        {"sliding_window": 4096, "rms_norm_eps": 1e-6},
        derived=("text_config.model_type", "text_config.sliding_window", "text_config.rms_norm_eps"),
        neutral={"text_config": {"rms_norm_eps": 1e-3}},
    ),
    "yarn": _mistral3(yarn(), neutral={"text_config": rope("default")}),
    "bfloat16_shards": _mistral3(
        {**yarn(truncate=False), "sliding_window": WINDOW + 2}, windowed=True, dtype="bfloat16", max_shard_size="20KB"
    ),
}
