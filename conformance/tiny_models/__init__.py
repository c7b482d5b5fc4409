"""The small models of the suite, one module an architecture."""

from __future__ import annotations

from conformance.tiny import TinyModel
from conformance.tiny_models import qwen3, smollm3

MODELS: tuple[TinyModel, ...] = (
    *smollm3.MODELS,
    *qwen3.MODELS,
)

__all__ = ["MODELS"]
