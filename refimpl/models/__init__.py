"""Which blocks a model has: one short file an architecture family, from config.json to `Blueprint`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from refimpl.blueprint import Blueprint
from refimpl.config import Config, is_params_json
from refimpl.models.deepseek_v3 import deepseek_v3
from refimpl.models.deepseek_v32 import deepseek_v32
from refimpl.models.gemma3 import gemma3, gemma3_text
from refimpl.models.glm4_moe import glm4_moe
from refimpl.models.gpt2 import gpt2
from refimpl.models.gpt_oss import gpt_oss
from refimpl.models.grok import grok
from refimpl.models.kimi_linear import kimi_linear
from refimpl.models.llama import llama
from refimpl.models.llama4 import llama4, llama4_text
from refimpl.models.minimax_m2 import minimax_m2
from refimpl.models.mistral import mistral, mistral3
from refimpl.models.mistral4 import mistral4
from refimpl.models.mistral_large3 import mistral_large3
from refimpl.models.olmo2 import olmo2
from refimpl.models.qwen3 import qwen3
from refimpl.models.qwen3_moe import qwen3_moe
from refimpl.models.qwen3_next import qwen3_next
from refimpl.models.smollm3 import smollm3

# What a params.json describes, which does not say so.
PARAMS_JSON = "mistral_large3"
# The value of `model_type` -> the reader of that family's configuration.
ARCHITECTURES: Mapping[str, Callable[[Config], Blueprint]] = {
    "deepseek_v3": deepseek_v3,
    "deepseek_v32": deepseek_v32,
    "gemma3": gemma3,
    "gemma3_text": gemma3_text,
    "glm4_moe": glm4_moe,
    "gpt2": gpt2,
    "gpt_oss": gpt_oss,
    "git": grok,
    "kimi_k2": deepseek_v3,
    "kimi_linear": kimi_linear,
    "llama": llama,
    "llama4": llama4,
    "llama4_text": llama4_text,
    "minimax_m2": minimax_m2,
    "mistral": mistral,
    "mistral3": mistral3,
    "mistral4": mistral4,
    "mistral_large3": mistral_large3,
    "olmo2": olmo2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "smollm3": smollm3,
}


def from_config(values: Mapping[str, Any]) -> Blueprint:
    """The blueprint of a configuration. ValueError for an unknown architecture, a missing, unknown or wrong key."""
    return reader(values)(config_of(values))


def config_of(values: Mapping[str, Any]) -> Config:
    """The configuration to be read, also one that does not name its architecture."""
    return Config(values, PARAMS_JSON if is_params_json(values) else None)


def reader(values: Mapping[str, Any]) -> Callable[[Config], Blueprint]:
    """The reader of the architecture that `model_type` names, or of a params.json."""
    name = PARAMS_JSON if is_params_json(values) else values.get("model_type")
    if name is None:
        raise ValueError("config: key 'model_type' is missing; it names the architecture")
    if not isinstance(name, str):
        raise ValueError(f"config: unknown architecture {name!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    if name not in ARCHITECTURES:
        near = get_close_matches(name, list(ARCHITECTURES), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(ARCHITECTURES))}"
        raise ValueError(f"config: unknown architecture {name!r}{hint}")
    return ARCHITECTURES[name]
