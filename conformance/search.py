"""A search among drawn cases for one that fails, shrunk to the smallest, reported as one case a layer and dtype."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky, HypothesisWarning

from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.family import Family, LayerCase
from conformance.strategies import layer_cases
from conformance.verdict import Judgement

if TYPE_CHECKING:
    from conformance.backend import Backend


class _Found(Exception):
    """A failing case; Hypothesis shrinks the draw that leads here."""


@dataclass(frozen=True, kw_only=True)
class Search(Case):
    """`max_examples` drawn cases of a family."""

    family: Family
    max_examples: int
    seed: int

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        if self.function not in backend.functions:
            return NOT_COVERED
        judged: list[tuple[LayerCase, Judgement]] = []

        def examine(case: LayerCase) -> None:
            judgement = case.judge(backend, workspace)
            judged.append((case, judgement))
            if judgement.verdict in ("fail", "error"):
                raise _Found

        test = self.over(examine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)
            try:
                test()
            except _Found:
                # The last run of Hypothesis is that of the smallest failing draw.
                case, judgement = judged[-1]
                return replace(judgement, minimal=case.id)
            except Flaky:
                case, judgement = next(pair for pair in reversed(judged) if pair[1].verdict in ("fail", "error"))
                sentence = f"{judgement.sentence} (not every time: the backend is not deterministic)"
                return replace(judgement, sentence=sentence, minimal=case.id)
        return _summary([judgement for _, judgement in judged])

    def over(self, examine: Callable[[LayerCase], None]) -> Callable[[], None]:
        """What calls `examine` with each drawn case, and then with smaller ones where it raises."""
        profile = settings(
            max_examples=self.max_examples,
            deadline=None,
            database=None,
            derandomize=False,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        test: Callable[[], None] = seeded(self.seed)(profile(given(layer_cases(self.function, self.dtype))(examine)))
        return test

    def drawn(self) -> list[LayerCase]:
        """The cases that are drawn as long as none fails."""
        found: list[LayerCase] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)
            self.over(lambda case: found.append(case))()  # Hypothesis wants a function of Python
        return found


def search(family: Family, dtype: str, *, max_examples: int, seed: int) -> Search:
    """The search among the cases of `family` at `dtype`."""
    return Search(
        id=f"{family.function}/drawn-any-{TOKENS[dtype]}",
        level="layer",
        function=family.function,
        dtype=dtype,
        family=family,
        max_examples=max_examples,
        seed=seed,
    )


def _summary(judgements: list[Judgement]) -> Judgement:
    passed = [judgement for judgement in judgements if judgement.verdict == "pass"]
    refused = [judgement for judgement in judgements if judgement.verdict == "unsupported"]
    if not passed:
        return refused[0] if refused else NOT_COVERED
    note = f"{len(passed)} of {len(judgements)} drawn cases ran; the rest are unsupported" if refused else ""
    return replace(max(passed, key=lambda one: one.share or 0.0), sentence=note)
