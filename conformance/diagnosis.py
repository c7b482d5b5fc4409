"""Diagnosis: which known bug a wrong result looks like.

Mutants (`conformance.mutants`) answer what the candidate answered. Those whose answer it equals, within the budget that a right
one has, are suspects; a mutant whose answer is inside the budget itself shows nothing and is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import refimpl
from conformance.backend import as_backend
from conformance.calls import Misbehaved, Unsupported
from conformance.judge import CONSTANT, Expectation, Norms, rounding_noise
from conformance.mutants import MUTANTS, Mutant, load
from conformance.verdict import Suspect
from refimpl.numerics import Array, is_float
from refimpl.ops import Ops, Wrapper

if TYPE_CHECKING:
    from conformance.family import LayerCase
    from conformance.verdict import Result

Outputs = Sequence[Array]
# How many of the nearest single faults are tried in pairs.
PAIRED = 40


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A suspect of several failures. explains: how many of them look like it; its share is the largest of theirs."""

    suspect: Suspect
    explains: int

    def record(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return {"explains": self.explains, **self.suspect.record()}


def ranked(failures: Iterable[Result]) -> list[Ranked]:
    """The faults by how many of the failures look like them, then by how near they are."""
    shares: dict[tuple[str, ...], list[float]] = {}
    for result in failures:
        for suspect in result.judgement.suspects:
            shares.setdefault(suspect.mutants, []).append(suspect.share)
    found = [Ranked(suspect=suspect_of(mutants, max(each)), explains=len(each)) for mutants, each in shares.items()]
    return sorted(found, key=lambda one: (-one.explains, one.suspect.share))


def suspect_of(mutants: tuple[str, ...], share: float) -> Suspect:
    """The suspect that these mutants are."""
    known = [MUTANTS[mutant] for mutant in mutants]
    return Suspect(
        mutants=mutants,
        share=share,
        sentence=" ".join(mutant.says for mutant in known),
        links=tuple(link for mutant in known for link in mutant.links),
    )


def suspects(
    outputs: Outputs, answers: Iterable[tuple[tuple[str, ...], Outputs]], expected: Sequence[Expectation], dtype: str
) -> tuple[Suspect, ...]:
    """Those of `answers`, mutants and what they return, that `outputs` equal; nearest first."""
    found = []
    for mutants, answer in answers:
        if len(answer) == len(outputs) and _apart([one.truth for one in expected], answer, expected, dtype) > 1:
            share = _apart(outputs, answer, expected, dtype)
            if share <= 1:
                found.append(suspect_of(mutants, share))
    return tuple(sorted(found, key=lambda suspect: suspect.share))


def layer_suspects(case: LayerCase, outputs: Outputs, expected: Sequence[Expectation]) -> tuple[Suspect, ...]:
    """The faulty functions that answer a layer's case as `outputs`."""

    def answers() -> Iterator[tuple[tuple[str, ...], Outputs]]:
        for mutant in MUTANTS.values():
            if case.function in mutant.functions and case.dtype in mutant.dtypes:
                answer = _attempted(partial(case.ask, as_backend(mutant.functions)))
                if answer is not None:
                    yield (mutant.id,), answer if isinstance(answer, tuple) else (answer,)

    return suspects(outputs, answers(), [one.settled() for one in expected], case.dtype)


def model_suspects(
    directory: Path,
    ask: Callable[[Any], Array],
    logits: Array,
    expected: Expectation,
    dtype: str,
    *,
    pairs: bool = False,
) -> tuple[Suspect, ...]:
    """The faulty models of a checkpoint that answer as `logits`: `ask(engine)` puts the question.

    pairs: try two faults at once where none alone fits.
    """
    expected = expected.settled()
    used = _used_functions(directory, ask)
    single: list[tuple[tuple[str, ...], Outputs]] = []
    for mutant in MUTANTS.values():
        if not mutant.functions or used & set(mutant.functions):
            answer = model_answer(directory, ask, mutant)
            if answer is not None and answer.shape == logits.shape:
                single.append(((mutant.id,), (answer,)))
    found = suspects((logits,), single, (expected,), dtype)
    if found or not pairs:
        return found
    distinct = [(each, answer) for each, answer in single if _apart((expected.truth,), answer, (expected,), dtype) > 1]
    distinct.sort(key=lambda one: _apart((logits,), one[1], (expected,), dtype))
    tried = combinations([each[0] for each, _ in distinct[:PAIRED]], 2)

    def both() -> Iterator[tuple[tuple[str, ...], Outputs]]:
        for one, other in tried:
            answer = model_answer(directory, ask, MUTANTS[one], MUTANTS[other])
            if answer is not None and answer.shape == logits.shape:
                yield (one, other), (answer,)

    return suspects((logits,), both(), (expected,), dtype)


def model_answer(directory: Path, ask: Callable[[Any], Array], *mutants: Mutant) -> Array | None:
    """The logits of a model with these faults; None where it cannot be made or cannot answer."""
    return _attempted(lambda: ask(load(directory, *mutants)))


class Named(Wrapper):
    """Notes the names of the functions that are called."""

    def __init__(self, inner: Ops) -> None:
        super().__init__(inner)
        self.names: set[str] = set()

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        self.names.add(name)
        return super().call(name, *values, **options)


def _used_functions(directory: Path, ask: Callable[[Any], Array]) -> set[str]:
    """The functions of the vocabulary that a model uses, those that make its frequencies included."""
    model = refimpl.load(directory, "float32")
    ops = Named(model.ops)
    ask(model.with_ops(ops))
    return ops.names | {rope.rule()[0] for rope in model.blueprint.ropes()}


def _attempted(answer: Callable[[], Any]) -> Any:
    """What a mutant says, None where it fails: it is made for other calls."""
    try:
        with np.errstate(all="ignore"):
            return answer()
    except (Unsupported, Misbehaved, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError):
        return None


def _apart(outputs: Outputs, answer: Outputs, expected: Sequence[Expectation], dtype: str) -> float:
    """How far two answers are apart, in budgets; infinitely where shapes or whole numbers differ."""
    return max(
        _distance(np.asarray(ours), np.asarray(theirs), expectation, dtype)
        for ours, theirs, expectation in zip(outputs, answer, expected, strict=True)
    )


def _distance(ours: Array, theirs: Array, expectation: Expectation, dtype: str) -> float:
    if ours.shape != theirs.shape or ours.shape != expectation.truth.shape:
        return np.inf
    if not is_float(ours.dtype) or expectation.noise is None:
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    wide = expectation.truth.dtype
    difference = Norms.of(ours.astype(wide) - theirs.astype(wide))
    if not np.isfinite(difference.maximum):
        return 0.0 if np.array_equal(ours, theirs, equal_nan=True) else np.inf
    # A mutant's numbers may be larger than the right ones, and are rounded where they are.
    budget = CONSTANT * expectation.noise.larger(rounding_noise(theirs.astype(wide), dtype))
    return max(difference.maximum / budget.maximum, difference.rms / budget.rms)
