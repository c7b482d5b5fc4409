"""One run of the suite: load the backend, select the cases, judge them here or elsewhere, report."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

from conformance import select
from conformance.backend import Backend
from conformance.case import Case
from conformance.catalogue import find_case
from conformance.doors import load_backend
from conformance.isolation import TIMEOUT, results_of_workers
from conformance.jobs import jobs_of, results_of_executor, workspace
from conformance.profiles import DEFAULT
from conformance.report import Report
from conformance.selection import selection
from conformance.threads import cores
from conformance.verdict import Result

MOST_WORKERS = 4


class Progress(Protocol):
    """What a run tells while it goes on."""

    def start(self, total: int) -> None:
        """So many cases will run."""

    def advance(self, result: Result) -> None:
        """One more is judged."""

    def finish(self) -> None:
        """The run is over, or was interrupted."""


def run(
    backend: Any,
    *,
    k: str | None = None,
    level: str | Sequence[str] | None = None,
    dtype: str | Sequence[str] | None = None,
    profile: str = DEFAULT,
    max_examples: int | None = None,
    seed: int | None = None,
    xfails_file: str | os.PathLike[str] | None = None,
    min_cases: int | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    executor: Any = None,
    diagnose: bool = False,
) -> Report:
    """Run the suite against `backend` (see `load_backend`).

    k: parts of case ids joined by and, or, not, parentheses. level: layer, block, model, law, or several; None: all.
    dtype: float64, float32, bfloat16, float16, several of them, or "all"; None: those that the backend claims.
    profile: dev, ci or nightly (`conformance.profiles`), how deep the run goes; in its place max_examples: drawn cases a layer
    and dtype, 0 for none; seed: where their drawing starts.
    xfails_file: known failures, see `conformance.xfails`.
    min_cases: with fewer cases that ran, `report.exit_code` is 5; None: one for each layer that is covered.
    workers: cases are judged in so many processes, which may hang or end: after `timeout` seconds (default: 60) without an
    answer, or without its process, a case is an error and the run goes on (`conformance.isolation`). Each has its share of the
    cores for threads, unless OMP_NUM_THREADS is set (`conformance.threads`). The backend must be a name, a path, a module or
    an object that pickle can carry. Neither is given, or workers is 0: everything in this process.
    executor: judge in its workers instead, whatever has submit(function, *arguments) -> future as in concurrent.futures; what
    hangs or ends there is its own affair. The report is the same in all three.
    diagnose: compare wrong answers that no line lists with those of known bugs (`conformance.mutants`); models then take
    seconds a failure.
    ValueError (BackendError for the backend) in one sentence when the call is wrong.
    """
    select.whole_number("min_cases", 0 if min_cases is None else min_cases)
    asked = selection(
        k=k,
        level=level,
        dtype=dtype,
        profile_name=profile,
        max_examples=max_examples,
        seed=seed,
        xfails_file=xfails_file,
    )
    _check_progress(progress)
    processes = _processes(workers, timeout, executor)
    candidate = load_backend(backend)
    found = asked.cases(candidate.dtypes)
    chosen, expected = [case for case, _ in found], {case.id: reason for case, reason in found}
    diagnosed = frozenset(case_id for case_id, reason in expected.items() if diagnose and not reason)
    jobs = jobs_of(chosen, asked.max_examples, asked.seed, diagnosed)
    if executor is not None:
        judged = results_of_executor(jobs, candidate, executor)
    elif processes:
        judged = results_of_workers(jobs, candidate, workers=processes, timeout=TIMEOUT if timeout is None else timeout)
    else:
        judged = _judged_here(chosen, candidate, diagnosed)
    results = _collected(judged, expected, progress)
    return Report(
        backend=candidate.name,
        reference=candidate.reference,
        version=candidate.version,
        results=tuple(results[case.id] for case in chosen),
        settings={
            "k": k,
            "level": level,
            "dtypes": list(asked.dtypes(candidate.dtypes)),
            "profile": profile,
            "max_examples": asked.max_examples,
            "seed": asked.seed,
        },
        minimum=min_cases,
    )


def reproduce(case_id: str, backend: Any) -> tuple[Case, Result]:
    """One case again, by its id: the case, with its inputs in `case.arrays` and `case.options` for layers, and the result."""
    case, candidate = find_case(case_id), load_backend(backend)
    return case, result_of(case, candidate)


def result_of(case: Case, backend: Backend) -> Result:
    """One case in a workspace of its own."""
    with workspace({case.id}) as shared:
        return case.result(backend, shared)


def available_workers() -> int:
    """How many processes are of use here: one a core, but no more than a graphics card has room for."""
    return min(cores(), MOST_WORKERS)


def _collected(
    judged: Generator[Result, None, None], expected: Mapping[str, str], progress: Progress | None
) -> dict[str, Result]:
    """All results by the ids of their cases, with the reasons of known failures, and `progress` told of each."""
    results: dict[str, Result] = {}
    if progress is not None:
        progress.start(len(expected))
    try:
        with closing(judged):
            for result in judged:
                results[result.id] = replace(result, expected=expected[result.id])
                if progress is not None:
                    progress.advance(results[result.id])
    finally:
        if progress is not None:
            progress.finish()
    return results


def _check_progress(progress: Any) -> None:
    missing = [part for part in ("start", "advance", "finish") if not callable(getattr(progress, part, None))]
    if progress is not None and missing:
        raise ValueError(f"progress is {progress!r} but needs the methods start, advance and finish")


def _judged_here(chosen: Sequence[Case], backend: Backend, diagnosed: frozenset[str]) -> Generator[Result, None, None]:
    with workspace(diagnosed) as shared:
        for case in chosen:
            yield case.result(backend, shared)


def _processes(workers: int | None, timeout: float | None, executor: Any) -> int:
    """In how many processes to judge, 0 for none but this one. ValueError where the three do not go together."""
    if workers is not None:
        select.whole_number("workers", workers)
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise ValueError(f"timeout is {timeout!r} but needs seconds, more than 0")
    if executor is None:
        if timeout is not None and workers == 0:
            raise ValueError("timeout needs worker processes, but workers is 0")
        return available_workers() if workers is None and timeout is not None else workers or 0
    if workers is not None or timeout is not None:
        raise ValueError("executor has workers of its own: give it, or workers and timeout, but not both")
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(f"executor is {executor!r} but needs a method submit, as those of concurrent.futures have")
    return 0
