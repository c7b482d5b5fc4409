"""Which checkpoints are compared: every switch of every architecture that transformers has too, one module an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import (
    deepseek_v3,
    deepseek_v32,
    gemma3,
    gemma3_text,
    glm4_moe,
    gpt2,
    gpt_oss,
    kimi_linear,
    llama,
    llama4,
    llama4_text,
    minimax_m2,
    mistral,
    mistral3,
    mistral4,
    olmo2,
    qwen3,
    qwen3_moe,
    qwen3_next,
    smollm3,
)
from .variant import Variant

_MODULES = {
    "deepseek_v3": deepseek_v3,
    "deepseek_v32": deepseek_v32,
    "gemma3": gemma3,
    "gemma3_text": gemma3_text,
    "glm4_moe": glm4_moe,
    "gpt2": gpt2,
    "gpt_oss": gpt_oss,
    "kimi_linear": kimi_linear,
    "llama": llama,
    "llama4": llama4,
    "llama4_text": llama4_text,
    "minimax_m2": minimax_m2,
    "mistral": mistral,
    "mistral3": mistral3,
    "mistral4": mistral4,
    "olmo2": olmo2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "smollm3": smollm3,
}
BASE: Mapping[str, Mapping[str, Any]] = {name: module.BASE for name, module in _MODULES.items()}
VARIANTS: Mapping[str, Variant] = {
    f"{name}-{variant}": settings for name, module in _MODULES.items() for variant, settings in module.VARIANTS.items()
}
# Architectures with latent attention, which are compared in both of its forms.
LATENT_ATTENTION = frozenset({"deepseek_v3", "deepseek_v32", "kimi_linear", "mistral4"})

__all__ = ["BASE", "LATENT_ATTENTION", "VARIANTS", "Variant"]
