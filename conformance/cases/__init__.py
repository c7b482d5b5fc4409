"""The hand-picked cases of every function of the vocabulary, one module a chapter of the specification."""

from conformance.cases import (
    attention,
    cache,
    convolution,
    ends,
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
from conformance.family import Family
from refimpl.layers import VOCABULARY

_CHAPTERS = (
    norm,
    position,
    cache,
    mask,
    attention,
    latent_attention,
    indexer,
    convolution,
    linear_attention,
    state_space,
    mlp,
    router,
    experts,
    quantization,
    ends,
    multi_token,
    loss,
    sampling,
)
_BY_NAME = {family.function: family for chapter in _CHAPTERS for family in chapter.FAMILIES}

# In the order of the vocabulary.
FAMILIES: dict[str, Family] = {name: _BY_NAME[name] for name in VOCABULARY}

__all__ = ["FAMILIES"]
