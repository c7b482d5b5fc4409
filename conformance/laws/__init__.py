"""Laws: equivalences that hold for any correct implementation.

`LAWS` are those of layers; the ones of whole models are in `conformance.laws.model`.
"""

from conformance.laws import attention, layers
from conformance.laws.law import Law, LawCase

LAWS: tuple[Law, ...] = (*attention.LAWS, *layers.LAWS)

__all__ = ["LAWS", "Law", "LawCase"]
