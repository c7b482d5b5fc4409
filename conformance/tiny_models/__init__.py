"""The small models of the suite, one module an architecture."""

from __future__ import annotations

from conformance.tiny import TinyModel
from conformance.tiny_models import (
    deepseek_v3,
    deepseek_v32,
    gemma3,
    glm4_moe,
    gpt2,
    gpt_oss,
    grok,
    kimi_linear,
    llama,
    llama4,
    minimax_m2,
    mistral,
    mistral4,
    olmo2,
    qwen3,
    qwen3_moe,
    qwen3_next,
    smollm3,
)

MODELS: tuple[TinyModel, ...] = (
    *smollm3.MODELS,
    *qwen3.MODELS,
    *grok.MODELS,
    *gpt2.MODELS,
    *gpt_oss.MODELS,
    *llama4.MODELS,
    *qwen3_moe.MODELS,
    *glm4_moe.MODELS,
    *minimax_m2.MODELS,
    *llama.MODELS,
    *olmo2.MODELS,
    *gemma3.MODELS,
    *mistral.MODELS,
    *deepseek_v3.MODELS,
    *deepseek_v32.MODELS,
    *mistral4.MODELS,
    *qwen3_next.MODELS,
    *kimi_linear.MODELS,
)

__all__ = ["MODELS"]
