"""Mistral: a window on every layer, the one of the class, none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variant import COMMON, WINDOW, Variant, rope, yarn

BASE = {
    **COMMON,
    "vocab_size": 67,
    "hidden_size": 44,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}


def _mistral(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="mistral", settings=settings or {}, **options)


VARIANTS = {
    "untied": _mistral(neutral={"sliding_window": WINDOW}),
    "tied": _mistral({"tie_word_embeddings": True}),
    "window": _mistral({"sliding_window": WINDOW}, neutral={"sliding_window": WINDOW + 1}, windowed=True),
    "window_of_class": _mistral(
        {"sliding_window": 4096}, derived=("sliding_window",), neutral={"sliding_window": WINDOW}, windowed=True
    ),
    "head_dim_of_the_sizes": _mistral({"hidden_size": 48, "head_dim": 8}, derived=("head_dim",)),
    "head_dim_null": _mistral({"hidden_size": 48, "head_dim": 8}, written={"head_dim": None}),
    "kv_heads_of_class": _mistral(
        {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 6}, derived=("num_key_value_heads",)
    ),
    "as_many_kv_heads": _mistral({"num_key_value_heads": 6}),
    "gelu": _mistral({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "yarn": _mistral(yarn(), neutral=rope("default")),
    "class_defaults": _mistral(
        {"rope_parameters": None, "rms_norm_eps": 1e-6},
        derived=("hidden_act", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
        neutral={"rms_norm_eps": 1e-3},
    ),
    "everything": _mistral(
        {**yarn(mscale=1.3, mscale_all_dim=0.6), "tie_word_embeddings": True, "sliding_window": WINDOW + 2},
        windowed=True,
        dtype="bfloat16",
        max_shard_size="20KB",
    ),
}
