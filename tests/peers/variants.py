"""Which checkpoints are compared: every switch of both architectures, as plain data.

Sizes are odd and no two of them equal, so that an exchanged axis or a wrong head width shows. `neutral` holds the configuration
keys that switch off what a variant is about: the peer's logits must move when they are applied, else the variant
would compare nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COMMON: Mapping[str, Any] = {
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
BASE: Mapping[str, Mapping[str, Any]] = {
    "smollm3": {
        **COMMON,
        "vocab_size": 67,
        "hidden_size": 48,
        "intermediate_size": 58,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "qwen3": {
        **COMMON,
        "vocab_size": 71,
        "hidden_size": 40,
        "intermediate_size": 54,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 14,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    },
}
WINDOW = 5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A checkpoint to build.

    settings: configuration keys on top of the base.
    derived, written: keys that are deleted from config.json, and replaced in it, once transformers has written it; `a.b` is
      key b of the object under a.
    neutral: see above. windowed: some layer has a sliding window.
    """

    architecture: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    written: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, Any] | None = None
    windowed: bool = False
    dtype: str = "float32"
    max_shard_size: str = "50GB"


def _smollm3(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="smollm3", settings=settings or {}, **options)


def _qwen3(settings: Mapping[str, Any] | None = None, **options: Any) -> Variant:
    return Variant(architecture="qwen3", settings=settings or {}, **options)


def _rope(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **keys}}


def _yarn(**keys: Any) -> dict[str, Any]:
    return _rope("yarn", **{"factor": 4.0, "original_max_position_embeddings": 16, **keys})


_LLAMA3 = {"low_freq_factor": 1.5, "high_freq_factor": 6.0, "original_max_position_embeddings": 48}

SMOLLM3 = {
    "tied": _smollm3(neutral={"no_rope_layers": [1, 1, 1, 1, 1]}),
    "untied": _smollm3({"tie_word_embeddings": False}),
    "attention_bias": _smollm3({"attention_bias": True}),
    "mlp_bias": _smollm3({"mlp_bias": True}),
    "no_rope_list": _smollm3({"no_rope_layers": [0, 1, 0, 0, 1]}, neutral={"no_rope_layers": [1, 0, 1, 1, 0]}),
    "no_rope_anywhere": _smollm3({"no_rope_layers": [0] * 5}, neutral={"no_rope_layers": [0, 0, 0, 0, 1]}),
    "no_rope_interval": _smollm3(
        {"no_rope_layer_interval": 2}, derived=("no_rope_layers", "layer_types"), neutral={"no_rope_layer_interval": 4}
    ),
    "no_rope_interval_of_class": _smollm3(
        derived=("no_rope_layers", "no_rope_layer_interval", "layer_types"), neutral={"no_rope_layer_interval": 3}
    ),
    "window": _smollm3(
        {"use_sliding_window": True, "sliding_window": WINDOW, "no_rope_layer_interval": 2},
        derived=("layer_types",),
        neutral={"use_sliding_window": False},
        windowed=True,
    ),
    "window_layer_types": _smollm3(
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
        neutral={"layer_types": ["full_attention"] * 5},
        windowed=True,
    ),
    "window_layer_types_without_switch": _smollm3(
        {
            "use_sliding_window": False,
            "sliding_window": WINDOW,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "full_attention"],
        },
        neutral={"layer_types": ["full_attention"] * 5},
        windowed=True,
    ),
    "window_longer_than_the_text": _smollm3({"use_sliding_window": True, "sliding_window": 50}, windowed=True),
    "head_dim_of_its_own": _smollm3({"head_dim": 10}),
    "as_many_kv_heads": _smollm3({"num_key_value_heads": 6}, written={"num_key_value_heads": None}),
    "one_kv_head": _smollm3({"num_key_value_heads": 1}),
    "yarn": _smollm3(_yarn(), neutral=_rope("default")),
    "default_theta": _smollm3({"rope_parameters": None}, derived=("rope_parameters",), neutral=_rope("default")),
    "class_defaults": _smollm3(
        derived=(
            "attention_bias",
            "hidden_act",
            "layer_types",
            "mlp_bias",
            "rms_norm_eps",
            "sliding_window",
            "tie_word_embeddings",
            "use_sliding_window",
        ),
        neutral={"rms_norm_eps": 1e-5},
    ),
    "everything": _smollm3(
        {
            **_yarn(truncate=False, beta_fast=4.0),
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "no_rope_layers": [0, 1, 1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": WINDOW + 2,
            "hidden_act": "gelu_pytorch_tanh",
        },
        windowed=True,
        dtype="bfloat16",
        max_shard_size="20KB",
    ),
}
QWEN3 = {
    "untied": _qwen3(neutral=_rope("default", rope_theta=1000.0)),
    "tied": _qwen3({"tie_word_embeddings": True}),
    "attention_bias": _qwen3({"attention_bias": True}),
    "head_dim_of_class": _qwen3({"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1}, derived=("head_dim",)),
    "eps": _qwen3({"rms_norm_eps": 0.05}, neutral={"rms_norm_eps": 0.01}),
    "gelu": _qwen3({"hidden_act": "gelu"}, neutral={"hidden_act": "gelu_pytorch_tanh"}),
    "gelu_tanh": _qwen3({"hidden_act": "gelu_pytorch_tanh"}, neutral={"hidden_act": "silu"}),
    "linear": _qwen3(_rope("linear", factor=3.0), neutral=_rope("linear", factor=2.0)),
    "llama3": _qwen3(_rope("llama3", factor=8.0, **_LLAMA3), neutral=_rope("linear", factor=8.0)),
    "llama3_length_of_the_model": _qwen3(
        _rope("llama3", factor=8.0, low_freq_factor=1.5, high_freq_factor=6.0, original_max_position_embeddings=64),
        derived=("rope_parameters.original_max_position_embeddings",),
        neutral=_rope("llama3", factor=8.0, **_LLAMA3),
    ),
    "yarn": _qwen3(_yarn(), neutral=_rope("default")),
    "yarn_without_truncation": _qwen3(_yarn(truncate=False), neutral=_yarn()),
    "yarn_attention_factor": _qwen3(_yarn(attention_factor=1.7), neutral=_yarn()),
    "yarn_mscale": _qwen3(_yarn(mscale=1.3, mscale_all_dim=0.6), neutral=_yarn()),
    "yarn_mscale_alone": _qwen3(_yarn(mscale=1.3), neutral=_yarn(attention_factor=1.3)),
    "yarn_mscales_equal": _qwen3(_yarn(mscale=0.7, mscale_all_dim=0.7), neutral=_yarn()),
    "yarn_mscale_under_attention_factor": _qwen3(
        _yarn(mscale=1.3, mscale_all_dim=0.6, attention_factor=0.8), neutral=_yarn(mscale=1.3, mscale_all_dim=0.6)
    ),
    "yarn_betas": _qwen3(
        _yarn(beta_fast=3.0, beta_slow=0.5, original_max_position_embeddings=32),
        neutral=_yarn(original_max_position_embeddings=32),
    ),
    "yarn_factor_from_lengths": _qwen3(_yarn(), written={"rope_parameters.factor": None}, neutral=_yarn(factor=3.0)),
    "yarn_no_ramp": _qwen3(
        _yarn(beta_fast=1.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=40),
        neutral=_yarn(original_max_position_embeddings=40),
    ),
    "yarn_ramp_before_the_first": _qwen3(_yarn(original_max_position_embeddings=4), neutral=_yarn()),
    "yarn_ramp_before_the_first_without_truncation": _qwen3(
        _yarn(original_max_position_embeddings=4, truncate=False), neutral=_yarn(original_max_position_embeddings=4)
    ),
    "yarn_ramp_after_the_last": _qwen3(
        _yarn(original_max_position_embeddings=50000), neutral=_yarn(original_max_position_embeddings=200)
    ),
    "yarn_length_of_the_model": _qwen3(
        _yarn(original_max_position_embeddings=64),
        derived=("rope_parameters.original_max_position_embeddings",),
        neutral=_yarn(),
    ),
    "window": _qwen3(
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        derived=("layer_types",),
        neutral={"max_window_layers": 2},
        windowed=True,
    ),
    "window_layer_types": _qwen3(
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        },
        neutral={"sliding_window": WINDOW + 1},
        windowed=True,
    ),
    "window_switched_off": _qwen3(
        {"max_window_layers": 0},
        derived=("layer_types",),
        neutral={"use_sliding_window": True, "sliding_window": WINDOW},
    ),
    # The peer's cache keeps every key of a window of one (its slice starts at -window + 1), so two is the shortest.
    "window_of_two": _qwen3(
        {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0},
        derived=("layer_types",),
        neutral={"sliding_window": 3},
        windowed=True,
    ),
    "class_defaults": _qwen3(
        derived=(
            "attention_bias",
            "hidden_act",
            "layer_types",
            "max_window_layers",
            "rms_norm_eps",
            "sliding_window",
            "tie_word_embeddings",
            "use_sliding_window",
        ),
        neutral={"rms_norm_eps": 1e-5},
    ),
    "float16": _qwen3(dtype="float16"),
    "bfloat16_shards": _qwen3({"tie_word_embeddings": True}, dtype="bfloat16", max_shard_size="12KB"),
    "everything": _qwen3(
        {
            **_yarn(truncate=False, mscale=1.2, mscale_all_dim=0.9),
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": WINDOW + 2,
            "max_window_layers": 2,
        },
        windowed=True,
        dtype="float16",
        max_shard_size="15KB",
    ),
}
VARIANTS: Mapping[str, Variant] = {
    **{f"smollm3-{name}": variant for name, variant in SMOLLM3.items()},
    **{f"qwen3-{name}": variant for name, variant in QWEN3.items()},
}
