"""One run of the suite: load the backend, select the cases, judge them one after the other, report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from hypothesis.configuration import set_hypothesis_home_dir

from conformance import select
from conformance.backend import Backend
from conformance.case import Case, Workspace
from conformance.catalogue import MAX_EXAMPLES, cases, find_case
from conformance.doors import load_backend
from conformance.report import Report
from conformance.verdict import Result
from conformance.xfails import read_xfails


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
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
    xfails_file: str | os.PathLike[str] | None = None,
    min_cases: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the suite against `backend` (see `load_backend`).

    k: parts of case ids joined by and, or, not, parentheses. level: layer, block, model, law, or several; None: all.
    dtype: float64, float32, bfloat16, float16, several of them, or "all"; None: those that the backend claims.
    max_examples: drawn cases a layer and dtype, 0 for none; seed: where their drawing starts.
    xfails_file: known failures, see `conformance.xfails`.
    min_cases: with fewer cases that ran, `report.exit_code` is 5; None: one for each layer that is covered.
    ValueError (BackendError for the backend) in one sentence when the call is wrong.
    """
    for name, number in (("max_examples", max_examples), ("seed", seed), ("min_cases", 0 if min_cases is None else min_cases)):
        select.whole_number(name, number)
    missing = [part for part in ("start", "advance", "finish") if not callable(getattr(progress, part, None))]
    if progress is not None and missing:
        raise ValueError(f"progress is {progress!r} but needs the methods start, advance and finish")
    matches, levels, xfails = select.expression(k), select.levels(level), read_xfails(xfails_file)
    select.dtypes(dtype, ())
    candidate = load_backend(backend)
    everything = cases(max_examples=max_examples, seed=seed)
    xfails.check(case.id for case in everything)
    dtypes = select.dtypes(dtype, candidate.dtypes)
    chosen = cases(dtypes=dtypes, levels=levels, max_examples=max_examples, seed=seed)
    results = []
    if progress is not None:
        progress.start(sum(matches(case.id) for case in chosen))
    try:
        with _workspace() as workspace:
            for case in chosen:
                if matches(case.id):
                    result = replace(case.result(candidate, workspace), expected=xfails.reason(case.id))
                    results.append(result)
                    if progress is not None:
                        progress.advance(result)
    finally:
        if progress is not None:
            progress.finish()
    settings = {"k": k, "level": level, "dtypes": list(dtypes), "max_examples": max_examples, "seed": seed}
    return Report(
        backend=candidate.name,
        reference=candidate.reference,
        version=candidate.version,
        results=tuple(results),
        settings=settings,
        minimum=min_cases,
    )


def reproduce(case_id: str, backend: Any) -> tuple[Case, Result]:
    """One case again, by its id: the case, with its inputs in `case.arrays` and `case.options` for layers, and the result."""
    case, candidate = find_case(case_id), load_backend(backend)
    return case, result_of(case, candidate)


def result_of(case: Case, backend: Backend) -> Result:
    """One case in a workspace of its own."""
    with _workspace() as workspace:
        return case.result(backend, workspace)


@contextmanager
def _workspace() -> Iterator[Workspace]:
    """A temporary directory, in which Hypothesis too keeps what it would leave where the command was called."""
    with tempfile.TemporaryDirectory(prefix="refimpl-") as directory:
        set_hypothesis_home_dir(Path(directory) / "hypothesis")
        try:
            yield Workspace(Path(directory))
        finally:
            set_hypothesis_home_dir(None)
