"""What a run asks: options checked before anything is loaded, and the cases that they leave of a backend that claims dtypes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from conformance import select
from conformance.case import Case
from conformance.catalogue import cases
from conformance.profiles import DEFAULT, Profile, profile
from conformance.xfails import Xfails, read_xfails


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Checked options of a run. dtype: as it was given; None: what the backend claims."""

    matches: Callable[[str], bool]
    levels: Sequence[str]
    dtype: str | Sequence[str] | None
    depth: Profile
    max_examples: int
    seed: int
    xfails: Xfails

    def dtypes(self, claimed: tuple[str, ...]) -> tuple[str, ...]:
        """Those asked for, or claimed."""
        return tuple(select.dtypes(self.dtype, claimed))

    def cases(self, claimed: tuple[str, ...]) -> list[tuple[Case, str]]:
        """The cases in order, each with the reason for which it is expected to fail, if it is.

        ValueError for a line of the xfails file that matches none of all cases there are.
        """
        find = partial(cases, max_examples=self.max_examples, seed=self.seed)
        self.xfails.check(case.id for case in find())
        dtypes = self.dtypes(claimed)
        chosen = [case for case in find(dtypes=dtypes, levels=self.levels) if self.matches(case.id)]
        if self.dtype is None:
            chosen = [case for case in chosen if self.depth.asks(case, dtypes)]
        return [(case, self.xfails.reason(case.id)) for case in chosen]


def selection(
    *,
    k: str | None = None,
    level: str | Sequence[str] | None = None,
    dtype: str | Sequence[str] | None = None,
    profile_name: str = DEFAULT,
    max_examples: int | None = None,
    seed: int | None = None,
    xfails_file: str | os.PathLike[str] | None = None,
) -> Selection:
    """The options of `conformance.run`, or ValueError for the first that is wrong."""
    depth = profile(profile_name)
    numbers: dict[str, Any] = {
        "max_examples": depth.max_examples if max_examples is None else max_examples,
        "seed": depth.seed() if seed is None else seed,
    }
    for name, number in numbers.items():
        select.whole_number(name, number)
    select.dtypes(dtype, ())
    return Selection(
        matches=select.expression(k),
        levels=select.levels(level),
        dtype=dtype,
        depth=depth,
        xfails=read_xfails(xfails_file),
        **numbers,
    )
