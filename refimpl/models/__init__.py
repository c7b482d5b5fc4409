"""Which blocks a model has: one short file an architecture family, from config.json to `Blueprint`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama import llama
from refimpl.models.qwen3 import qwen3
from refimpl.models.smollm3 import smollm3

# The value of `model_type` -> the reader of that family's configuration.
ARCHITECTURES: Mapping[str, Callable[[Config], Blueprint]] = {
    "llama": llama,
    "qwen3": qwen3,
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
