"""The signatures of the vocabulary, each read once: reading one takes longer than many a layer."""

from __future__ import annotations

from functools import cache
from inspect import Signature, signature

from refimpl.layers import VOCABULARY


@cache
def signature_of(name: str) -> Signature:
    """How the layer `name` is called. KeyError for a name that is no layer."""
    return signature(VOCABULARY[name])
