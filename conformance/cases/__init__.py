"""The hand-picked cases of every function of the vocabulary, one module a chapter of the specification."""

from conformance.cases import attention, cache, ends, experts, mask, mlp, norm, position, quantization, router
from conformance.family import Family
from refimpl.layers import VOCABULARY

_CHAPTERS = (norm, position, cache, mask, attention, mlp, router, experts, quantization, ends)
_BY_NAME = {family.function: family for chapter in _CHAPTERS for family in chapter.FAMILIES}

# In the order of the vocabulary.
FAMILIES: dict[str, Family] = {name: _BY_NAME[name] for name in VOCABULARY}

__all__ = ["FAMILIES"]
