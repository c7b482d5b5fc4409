"""The body of every layer in standard ONNX operators, file by file and name by name as `refimpl.layers`.

A lowering takes a body to write into, then the arrays and options of the layer. Where its arguments differ from the
layer's (attention takes a mask for the orders, experts the places of their matrices), `export.ops.GraphOps` stands between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.lowerings import (
    attention,
    cache,
    convolution,
    embedding,
    experts,
    indexer,
    latent_attention,
    linear_attention,
    loss,
    mask,
    mlp,
    multi_token,
    norm,
    position,
    quantization,
    router,
    sampling,
    state_space,
)
from refimpl.layers import VOCABULARY

_CHAPTERS = (
    norm,
    position,
    mask,
    attention,
    latent_attention,
    indexer,
    convolution,
    linear_attention,
    state_space,
    cache,
    mlp,
    router,
    experts,
    quantization,
    embedding,
    sampling,
    multi_token,
    loss,
)

LOWERINGS: dict[str, Callable[..., Any]] = {
    name: getattr(chapter, name) for name in VOCABULARY for chapter in _CHAPTERS if hasattr(chapter, name)
}
