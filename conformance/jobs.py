"""Jobs: cases that are judged together because they share checkpoints, engines and truths; here, or by an executor."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis.configuration import set_hypothesis_home_dir

from conformance.backend import Backend, BackendError
from conformance.calls import described, error_of
from conformance.case import Case, Workspace
from conformance.catalogue import cases
from conformance.shared import Shared
from conformance.verdict import Kind, Result

# What executors say when the backend, or the suite, cannot be sent to where they work.
UNSENDABLE = (pickle.PicklingError, TypeError, AttributeError, ImportError)

DRAWN_AT_ONCE = 50


@dataclass(frozen=True)
class Job:
    """Cases by id, which is how they travel, and the settings of the catalogue in which they are found.

    diagnosed: those whose wrong answers are compared with the ones of known bugs.
    """

    case_ids: tuple[str, ...]
    max_examples: int
    seed: int
    diagnosed: frozenset[str] = frozenset()

    def results(self, backend: Backend) -> Iterator[Result]:
        """The results, one after the other."""
        with workspace(self.diagnosed) as shared:
            for case_id in self.case_ids:
                yield self._case(case_id).result(backend, shared)

    def questions(self, case_id: str) -> int:
        """For how much of an answer's time a case may take: a search asks many times."""
        return 1 + self.max_examples // DRAWN_AT_ONCE if "/drawn-any-" in case_id else 1

    def lost(self, case_id: str, kind: Kind, sentence: str) -> Result:
        """The result of a case that could not be finished."""
        return self._case(case_id).with_judgement(error_of(sentence, kind))

    def _case(self, case_id: str) -> Case:
        return _catalogue(self.max_examples, self.seed)[case_id]


def jobs_of(chosen: Iterable[Case], max_examples: int, seed: int, diagnosed: frozenset[str]) -> list[Job]:
    """The cases in jobs: those of one small model at one dtype, else those of one function."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    # Models first: they take the longest, and no worker should be left alone with one.
    for case in sorted(chosen, key=lambda case: not case.whole_model):
        model = getattr(case, "index", None)
        key = (case.level, case.function, case.dtype) if model is None else (model, case.dtype)
        groups.setdefault(key, []).append(case.id)
    return [Job(tuple(ids), max_examples, seed, diagnosed.intersection(ids)) for ids in groups.values()]


def answers(job: Job, backend: Backend) -> list[Result]:
    """A whole job, as it is submitted to an executor."""
    return list(job.results(backend))


def results_of_executor(jobs: list[Job], backend: Backend, executor: Any) -> Generator[Result, None, None]:
    """The results of an executor's workers. BackendError where the backend cannot be sent to them."""
    futures = []
    try:
        futures = [executor.submit(answers, job, backend) for job in jobs]
        for job, future in zip(jobs, futures, strict=True):
            try:
                yield from future.result()
            except BackendError:
                raise
            except UNSENDABLE as error:
                sentence = f"{backend.name}: cannot be sent to the executor's workers ({described(error)}); {SENDABLE}"
                raise BackendError(sentence) from error
            except Exception as error:  # the worker is gone; what that is called is the executor's affair
                yield from (job.lost(case_id, "crash", f"the executor lost it: {described(error)}") for case_id in job.case_ids)
    finally:
        for future in futures:
            future.cancel()


SENDABLE = "a name, a module, path/to/adapter.py:attribute or an object of a class that can be imported can"


@contextmanager
def workspace(diagnosed: Collection[str] = ()) -> Iterator[Workspace]:
    """A temporary directory, while Hypothesis keeps in another what it would leave where the command was called."""
    with tempfile.TemporaryDirectory(prefix="refimpl-") as directory, HYPOTHESIS_ELSEWHERE:
        yield Workspace(Path(directory), diagnosed=diagnosed)


@contextmanager
def _hypothesis_elsewhere() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="refimpl-") as directory:
        set_hypothesis_home_dir(directory)
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)


HYPOTHESIS_ELSEWHERE = Shared(_hypothesis_elsewhere)


@cache
def _catalogue(max_examples: int, seed: int) -> dict[str, Case]:
    return {case.id: case for case in cases(max_examples=max_examples, seed=seed)}
