"""Legitimate implementations as a registry: `VARIANTS` (id -> `Variant`), one chapter a file. The suite must accept them all.

    variant = VARIANTS["softmax-in-base-two"]
    run(variant.functions)                # as a backend
    run({"load": variant.load})           # as a backend of whole models

`python -m conformance.variants.search` judges them on hundreds of values and drawn cases.
"""

from conformance.variants import (
    attention,
    convolution,
    experts,
    indexer,
    latent_attention,
    linear_attention,
    mlp,
    multi_token,
    norm,
    position,
    router,
    sampling,
    storage,
    stored_keys,
    sums,
    whole,
    wiring,
)
from conformance.variants.variant import Variant

_CHAPTERS = (
    whole,
    sums,
    norm,
    position,
    attention,
    stored_keys,
    latent_attention,
    indexer,
    convolution,
    linear_attention,
    mlp,
    router,
    experts,
    storage,
    multi_token,
    sampling,
    wiring,
)
VARIANTS: dict[str, Variant] = {variant.id: variant for chapter in _CHAPTERS for variant in chapter.VARIANTS}

__all__ = ["VARIANTS", "Variant"]
