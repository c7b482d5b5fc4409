"""Which checkpoints are compared: every switch of every architecture that transformers has too, one module an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import llama, qwen3, smollm3
from .variant import Variant

_MODULES = {
    "llama": llama,
    "qwen3": qwen3,
    "smollm3": smollm3,
}
BASE: Mapping[str, Mapping[str, Any]] = {name: module.BASE for name, module in _MODULES.items()}
VARIANTS: Mapping[str, Variant] = {
    f"{name}-{variant}": settings for name, module in _MODULES.items() for variant, settings in module.VARIANTS.items()
}

__all__ = ["BASE", "VARIANTS", "Variant"]
