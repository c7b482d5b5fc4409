"""Laws: equivalences that hold for any correct implementation.

`LAWS` are those of layers; the ones of whole models are in `conformance.laws.model`.
"""

from conformance.laws import (
    attention,
    cache,
    experts,
    indexer,
    latent_attention,
    layers,
    linear_attention,
    multi_token,
    quantization,
    recurrence,
)
from conformance.laws.law import Law, LawCase

LAWS: tuple[Law, ...] = (
    *attention.LAWS,
    *latent_attention.LAWS,
    *indexer.LAWS,
    *cache.LAWS,
    *recurrence.LAWS,
    *linear_attention.LAWS,
    *layers.LAWS,
    *experts.LAWS,
    *quantization.LAWS,
    *multi_token.LAWS,
)

__all__ = ["LAWS", "Law", "LawCase"]
