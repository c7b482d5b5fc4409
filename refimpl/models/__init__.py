"""Which blocks a model has: one short file an architecture family, from config.json to `Blueprint`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.gemma3 import gemma3, gemma3_text
from refimpl.models.glm4_moe import glm4_moe
from refimpl.models.gpt2 import gpt2
from refimpl.models.gpt_oss import gpt_oss
from refimpl.models.grok import grok
from refimpl.models.llama import llama
from refimpl.models.llama4 import llama4, llama4_text
from refimpl.models.minimax_m2 import minimax_m2
from refimpl.models.mistral import mistral, mistral3
from refimpl.models.olmo2 import olmo2
from refimpl.models.qwen3 import qwen3
from refimpl.models.qwen3_moe import qwen3_moe
from refimpl.models.smollm3 import smollm3

# The value of `model_type` -> the reader of that family's configuration.
ARCHITECTURES: Mapping[str, Callable[[Config], Blueprint]] = {
    "gemma3": gemma3,
    "gemma3_text": gemma3_text,
    "glm4_moe": glm4_moe,
    "gpt2": gpt2,
    "gpt_oss": gpt_oss,
    "git": grok,
    "llama": llama,
    "llama4": llama4,
    "llama4_text": llama4_text,
    "minimax_m2": minimax_m2,
    "mistral": mistral,
    "mistral3": mistral3,
    "olmo2": olmo2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "smollm3": smollm3,
}


def from_config(values: Mapping[str, Any]) -> Blueprint:
    """The blueprint of a configuration. ValueError for an unknown architecture, a missing, unknown or wrong key."""
    return reader(values)(Config(values))


def reader(values: Mapping[str, Any]) -> Callable[[Config], Blueprint]:
    """The reader of the architecture that `model_type` names."""
    name = values.get("model_type")
    if name is None:
        raise ValueError("config: key 'model_type' is missing; it names the architecture")
    if not isinstance(name, str):
        raise ValueError(f"config: unknown architecture {name!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    if name not in ARCHITECTURES:
        near = get_close_matches(name, list(ARCHITECTURES), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(ARCHITECTURES))}"
        raise ValueError(f"config: unknown architecture {name!r}{hint}")
    return ARCHITECTURES[name]
