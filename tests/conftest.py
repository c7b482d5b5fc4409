"""For all tests: the same examples of Hypothesis on every machine, without deadlines, expectations that are made once, and a
share of the cores for each process of pytest-xdist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from conformance.blocks import BlockCase
from conformance.family import LayerCase
from conformance.laws.law import LawCase
from refimpl_pytest import share_cores

settings.register_profile("ci", max_examples=40, derandomize=True, deadline=None)
settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    share_cores(config)


@pytest.fixture(scope="session", autouse=True)
def forget_expectations() -> Iterator[Callable[[], None]]:
    """What is expected in a case depends on the case alone, and many tests run the same cases: it is made once, or again after
    a call of this."""
    made: dict[Any, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind, problem in ((LayerCase, "family"), (BlockCase, "block"), (LawCase, "law")):
            patch.setattr(kind, "expected", _made_once(kind.expected, problem, made))
        yield made.clear


def _made_once(expected: Callable[..., Any], problem: str, made: dict[Any, Any]) -> Callable[..., Any]:
    def once(case: Any, *outputs: Any) -> Any:
        if outputs and case.family.chooses:
            return expected(case, *outputs)
        source = getattr(case, problem)
        key = case.id, getattr(case, "seed", None), id(source)
        if key not in made:
            made[key] = source, expected(case)
        return made[key][1]

    return once
