"""Laws: equivalences that hold for any correct implementation.

`LAWS` are those of layers; the ones of whole models are in `conformance.laws.model`.
"""

from conformance.laws import attention, cache, experts, layers
from conformance.laws.law import Law, LawCase

LAWS: tuple[Law, ...] = (*attention.LAWS, *cache.LAWS, *layers.LAWS, *experts.LAWS)

__all__ = ["LAWS", "Law", "LawCase"]
