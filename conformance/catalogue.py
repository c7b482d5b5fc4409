"""All cases there are, in order: layers, blocks, models, laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from conformance import select
from conformance.blocks import block_cases
from conformance.case import LEVELS, Case
from conformance.cases import FAMILIES
from conformance.family import INTEGERS
from conformance.laws import LAWS
from conformance.laws.model import model_law_cases
from conformance.models import model_cases
from conformance.profiles import DEFAULT, PROFILES
from conformance.search import search
from conformance.select import whole_number
from refimpl.numerics import FORMATS

MAX_EXAMPLES = PROFILES[DEFAULT].max_examples


def cases(
    *,
    dtypes: str | Sequence[str] = tuple(FORMATS),
    levels: str | Sequence[str] = LEVELS,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> list[Case]:
    """Every case at some dtypes and levels; functions of integers belong to every dtype.

    max_examples and seed are those of the searches among drawn cases; none with max_examples = 0. ValueError for what is
    no dtype, level or number.
    """
    wanted, chosen = select.levels(levels), select.dtypes(dtypes, ())
    whole_number("max_examples", max_examples)
    whole_number("seed", seed)
    found: list[Case] = []
    for level in LEVELS:
        if level in wanted:
            for dtype in (*chosen, *INTEGERS):
                found += _MAKERS[level](dtype, max_examples, seed)
    return found


def find_case(case_id: str) -> Case:
    """The case of an id, drawn ones included. ValueError when there is none."""
    if not isinstance(case_id, str):
        raise ValueError(f"the case id is {case_id!r} but needs a string; `refimpl list cases` names them")
    for family in FAMILIES.values():
        drawn = family.parse(case_id)
        if drawn is not None:
            return drawn
    for case in cases():
        if case.id == case_id:
            return case
    raise ValueError(f"no case {case_id!r}; `refimpl list cases` names them")


def _layer_cases(dtype: str, max_examples: int, seed: int) -> Iterator[Case]:
    for family in FAMILIES.values():
        if dtype in family.dtypes:
            yield from family.cases(dtype)
            if max_examples:
                yield search(family, dtype, max_examples=max_examples, seed=seed)


def _law_cases(dtype: str) -> Iterator[Case]:
    yield from (law.case(dtype) for law in LAWS if dtype in law.dtypes)
    yield from model_law_cases(dtype)


_MAKERS: dict[str, Callable[[str, int, int], Iterator[Case]]] = {
    "layer": _layer_cases,
    "block": lambda dtype, max_examples, seed: iter(block_cases(dtype)),
    "model": lambda dtype, max_examples, seed: iter(model_cases(dtype)),
    "law": lambda dtype, max_examples, seed: _law_cases(dtype),
}
