"""How deep a run goes. Whatever a search finds, the id of the case alone makes it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from refimpl.numerics import FORMATS

if TYPE_CHECKING:
    from conformance.case import Case


@dataclass(frozen=True)
class Profile:
    """max_examples: drawn cases a layer and dtype. seed: where their drawing starts.

    models: the dtypes of whole models where a run asks for none by name. What a model adds to its layers is the wiring, which
    does not depend on the dtype, and its truth takes longer than everything else.
    """

    max_examples: int
    seed: Callable[[], int]
    models: tuple[str, ...] = tuple(FORMATS)

    def asks(self, case: Case, dtypes: tuple[str, ...]) -> bool:
        """Whether a case belongs to a run of a backend that claims `dtypes`."""
        return not case.whole_model or case.dtype in self.models or not set(dtypes) & set(self.models)


PROFILES = {
    "dev": Profile(20, lambda: 0, models=("float32", "bfloat16")),
    "ci": Profile(100, lambda: 0),
    "nightly": Profile(1000, lambda: datetime.now(UTC).toordinal()),  # other cases each night, the same all day
}

DEFAULT = "dev"


def profile(name: str) -> Profile:
    """ValueError for a name that is none."""
    if not isinstance(name, str) or name not in PROFILES:
        raise ValueError(f"profile is {name!r} but must be one of {', '.join(PROFILES)}")
    return PROFILES[name]
