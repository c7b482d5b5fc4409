"""`refimpl conform` and what goes with it: run the suite, reproduce one case, start an adapter."""

from __future__ import annotations

import keyword
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from refimpl.commands.output import Target, console, print_json

STDOUT = Path("-")


class FileOrStdout(Target):
    """A `Target`, or - for standard output."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return STDOUT if value == "-" else super().convert(value, parameter, context)


_DTYPE_HELP = "float64, float32, bfloat16, float16 or all; may be repeated. Default: those that the backend claims."

_PROFILE_HELP = "How many cases to draw: dev (20 a layer and dtype), ci (100), nightly (1000, others each day)."
_WORKERS_HELP = "Judge in so many processes; 0: in this one. Default: one a core, 4 at most."
_TIMEOUT_HELP = "A case without an answer for so long is an error, and the run goes on. Default: 60; none with -n 0."


@click.command()
@click.argument("backend")
@click.option("-k", "expression", metavar="EXPR", help="Only cases whose id matches: parts of ids, and, or, not.")
@click.option("--level", metavar="LEVEL", help="layer, block, model or law. Default: all.")
@click.option("--dtype", "dtypes", multiple=True, metavar="DTYPE", help=_DTYPE_HELP)
@click.option("--profile", default="dev", show_default=True, metavar="PROFILE", help=_PROFILE_HELP)
@click.option("--max-examples", type=click.IntRange(min=0), help="Drawn cases a layer and dtype. Default: the profile's.")
@click.option("--seed", type=click.IntRange(min=0), help="Where the drawing starts. Default: the profile's.")
@click.option("-n", "workers", type=click.IntRange(min=0), metavar="WORKERS", help=_WORKERS_HELP)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help=_TIMEOUT_HELP)
@click.option("--xfails-file", type=click.Path(path_type=Path), help="Known failures: lines of `glob  # reason  url`.")
@click.option("--min-cases", type=click.IntRange(min=0), help="Status 5 when fewer ran. Default: one a covered layer.")
@click.option(
    "--json", "json_file", type=FileOrStdout(), metavar="FILE", help="Write the report as JSON; - prints it and nothing else."
)
@click.option("--junit", type=Target(), help="Write the report as JUnit XML.")
@click.option("--html", type=Target(), help="Write the report as one HTML page.")
@click.option("--markdown", type=Target(), help="Write a summary in Markdown.")
@click.option("--badge", type=Target(), help="Write the JSON of a shields.io endpoint badge.")
@click.option(
    "--diagnose/--no-diagnose", default=True, show_default=True, help="Name the known bugs that wrong answers look like."
)
@click.option("-q", "--quiet", is_flag=True, help="Print the totals alone.")
def conform(
    backend: str,
    expression: str | None,
    level: str | None,
    dtypes: tuple[str, ...],
    profile: str,
    max_examples: int | None,
    seed: int | None,
    workers: int | None,
    timeout: float | None,
    xfails_file: Path | None,
    min_cases: int | None,
    json_file: Path | None,
    junit: Path | None,
    html: Path | None,
    markdown: Path | None,
    badge: Path | None,
    diagnose: bool,
    quiet: bool,
) -> int:
    """Run the suite against BACKEND.

    BACKEND is a built-in name (`refimpl list backends`), an installed entry point, path/to/adapter.py[:attribute], a
    module, exec:PROGRAM, which is asked in files, or answers:DIR, where such files were answered
    (docs/vectors.md). Status 0: it conforms; 1: it does not; 5: too little ran.
    """
    from conformance import run
    from conformance.runner import available_workers
    from conformance.text import failure_text, not_covered_text, summary_table, totals_text

    progress = Bar() if json_file != STDOUT and not quiet else None
    with reserved_output() if json_file == STDOUT else nullcontext():
        report = run(
            backend,
            k=expression,
            level=level,
            dtype=_dtypes(dtypes),
            profile=profile,
            max_examples=max_examples,
            seed=seed,
            xfails_file=xfails_file,
            min_cases=min_cases,
            progress=progress,
            workers=available_workers() if workers is None else workers,
            timeout=timeout,
            diagnose=diagnose,
        )
    forms = (report.to_junit, junit), (report.to_html, html), (report.to_markdown, markdown), (report.to_badge, badge)
    for write, target in forms:
        if target is not None:
            write(target)
    if json_file is not None and json_file != STDOUT:
        report.to_json(json_file)
    if json_file == STDOUT:
        click.echo(report.to_json())
        return int(report.exit_code)
    if not quiet:
        for result in report.failures():
            click.echo(failure_text(result, report.reference) + "\n")
        console().print(summary_table(report))
        if missing := not_covered_text(report):
            click.echo(missing)
    for result in report.unexpected_passes():
        click.echo(f"passes though the xfails file lists it: {result.id}")
    if report.too_few:
        click.echo(report.too_few)
    click.echo(totals_text(report))
    return int(report.exit_code)


@click.command()
@click.argument("case_id")
@click.option("--backend", required=True, help="As for `refimpl conform`.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def reproduce(case_id: str, backend: str, as_json: bool) -> int:
    """Ask BACKEND one case again, by the id that a failure printed."""
    import conformance
    from conformance.text import failure_text

    _, result = conformance.reproduce(case_id, backend)
    if as_json:
        print_json(result.record())
    elif result.failed:
        click.echo(failure_text(result, backend))
    else:
        share = "" if result.judgement.share is None else f", {result.judgement.share:.0%} of the budget used"
        reason = f": {result.judgement.sentence}" if result.judgement.sentence else ""
        click.echo(f"{result.verdict}  {result.id}{share}{reason}")
    return int(result.failed)


@click.command("new-backend")
@click.argument("name")
def new_backend(name: str) -> None:
    """Write NAME.py, a working adapter to start from."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise click.UsageError(f"NAME is {name!r} but needs to be a Python identifier, which the file is called after")
    path = Path(f"{name}.py")
    if path.exists():
        raise click.UsageError(f"{path} exists and is left as it is")
    path.write_text(_ADAPTER.format(name=name), encoding="utf-8")
    click.echo(f"{path} written; now: refimpl conform {path}")


@contextmanager
def reserved_output() -> Iterator[None]:
    """Whatever prints meanwhile, compiled code and other programs included, prints to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class Bar:
    """One live line on standard error: cases, failures, time to go. Nothing where that is no terminal, or CI is set."""

    def __init__(self) -> None:
        quiet = not sys.stderr.isatty() or "CI" in os.environ
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)
        self._failed = 0

    def start(self, total: int) -> None:
        self._progress.start()
        self._task = self._progress.add_task("running", total=total)

    def advance(self, result: Any) -> None:
        self._failed += result.failed
        label = f"{self._failed} failed" if self._failed else "running"
        self._progress.update(self._task, advance=1, description=label)

    def finish(self) -> None:
        self._progress.stop()


def _dtypes(given: tuple[str, ...]) -> str | tuple[str, ...] | None:
    if not given:
        return None
    return "all" if "all" in given else given


_ADAPTER = '''"""A backend for the conformance suite: replace the bodies by calls of your own implementation.

    refimpl conform {name}.py

Functions have the names and signatures of `refimpl.layers` (`refimpl list layers`) and take and return NumPy arrays in the
tested dtype; options at their default value are not passed. Leave out what you do not have. Raise NotImplementedError with
the reason for an option that you do not support.
"""

import numpy as np

name = "{name}"
version = "0"
dtypes = ("float32",)  # also: "float64", "bfloat16" and "float16" (ml_dtypes arrays)


def rms_norm(x, weight=None, *, eps, zero_centred=False):
    if zero_centred:
        raise NotImplementedError("no zero-centred weights")
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return y if weight is None else y * weight


def swiglu(gate, up):
    with np.errstate(over="ignore"):
        return gate / (1 + np.exp(-gate)) * up


# def load(directory):
#     """An engine as a whole: a callable from tokens int64 [B, T] to logits [B, T, V] for a checkpoint directory."""
'''

COMMANDS = [conform, reproduce, new_backend]
