"""The report in words: a table a layer and dtype, and ten lines a failure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from conformance.case import TOKENS, rule_text
from conformance.files import printable
from conformance.report import Report
from conformance.verdict import Result, Suspect

if TYPE_CHECKING:
    from conformance.diagnosis import Ranked
    from conformance.difference import Comparison

MOST_RULES = 12


def failure_text(result: Result, reference: str) -> str:
    """What went wrong, the numbers, where it is worst, and the command that shows it again.

    reference: the backend as a command line names it (`Report.reference`).
    """
    judgement = result.judgement
    verdict = f"{judgement.verdict.upper()}{f' ({judgement.kind})' if judgement.kind else ''}"
    head = f"{verdict}  {result.id}" + (
        f"        {'law: ' if result.level == 'law' else 'rule '}{result.rule}" if result.rule else ""
    )
    lines = [head]
    if judgement.sentence:
        lines.append(judgement.sentence)
    if judgement.max_error is not None and judgement.max_budget and judgement.rms_budget:
        share = judgement.max_error / judgement.max_budget
        lines.append(
            f"max error {judgement.max_error:.1e}   budget {judgement.max_budget:.1e}   ({share:.3g}x)     "
            f"rms {judgement.rms_error:.1e} of {judgement.rms_budget:.1e}"
        )
    if judgement.worst:
        lines.append(f"worst at {judgement.worst}")
    lines += [f"looks like {suspect.text()}" for suspect in judgement.suspects]
    if judgement.minimal:
        lines.append(f"smallest failing case: {judgement.minimal}")
    if result.expected:
        lines.append(f"expected: {result.expected}")
    lines.append(f"reproduce:  {reproduce_line(result, reference)}")
    return "\n      ".join(lines)


def reproduce_line(result: Result, reference: str) -> str:
    """The command that asks a failing case again, the smallest that was found."""
    return f"refimpl reproduce {quoted(result.judgement.minimal or result.id)} --backend {quoted(reference)}"


def comparison_text(found: Comparison, suspects: Sequence[Suspect]) -> str:
    """Where a model first differs, by how much, and what it looks like: known bugs, or else the rules of the function."""
    counted = f"{len(found.compared)} taps compared, {len(found.skipped)} not shown"
    if found.unstable:
        counted += f"; {found.unstable:.0%} of the tokens left out, where experts or keys are nearly tied"
    if found.difference is None:
        return f"no difference: {counted}"
    difference, judgement = found.difference, found.difference.judgement
    lines = [f"first difference: {difference.tap}, made by {difference.function}", judgement.sentence]
    if judgement.max_error is not None:
        lines.append(
            f"max error {judgement.max_error:.1e} of {judgement.max_budget:.1e}     "
            f"rms {judgement.rms_error:.1e} of {judgement.rms_budget:.1e}"
        )
    if judgement.worst:
        lines.append(f"worst at {judgement.worst}")
    lines += [f"looks like {suspect.text()}" for suspect in suspects] or rules(difference.function)
    return "\n      ".join(lines) + f"\n{counted}"


def rules(function: str) -> list[str]:
    """The rules of a function of the vocabulary, in words."""
    found = ((f"R{number}", rule_text(function, f"R{number}")) for number in range(1, MOST_RULES))
    return [f"{rule}  {text}" for rule, text in found if text]


def diagnosis_text(failures: Sequence[Result], found: Sequence[Ranked]) -> str:
    """The known bugs that failures look like, those first that explain the most."""
    if not failures:
        return "nothing failed"
    explained = sum(bool(result.judgement.suspects) for result in failures)
    lines = [f"{explained} of {len(failures)} failures look like known bugs"]
    lines += [f"{one.explains:5}  {one.suspect.text()}" for one in found]
    return "\n".join(lines)


def quoted(text: str) -> str:
    """A case id or a path as a shell takes it."""
    return shlex.quote(text)


def summary_table(report: Report) -> Table:
    """One row a layer, block or model that is covered: passed of run at each dtype with the largest share of the budget."""
    dtypes = [dtype for dtype in TOKENS if any(result.dtype == dtype for result in report.results)]
    # A name is no markup, and a report of others may have one that would speak to the terminal.
    title = Text(printable(f"{report.backend} {report.version}".strip()), style="table.title")
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("level")
    table.add_column("layer")
    for dtype in dtypes:
        table.add_column(dtype, justify="right")
    table.add_column("unsupported", justify="right")
    for (level, layer), results in grouped(report.results).items():
        if all(result.verdict == "not covered" for result in results):
            continue
        cells = [_cell([result for result in results if result.dtype == dtype]) for dtype in dtypes]
        refused = sum(result.verdict == "unsupported" for result in results)
        table.add_row(Text(level), Text(printable(layer)), *cells, str(refused) if refused else "")
    return table


def not_covered_text(report: Report) -> str:
    """What the backend does not offer at all, in one line; empty when it offers everything."""
    missing: dict[str, list[str]] = {}
    for (level, layer), results in grouped(report.results).items():
        if all(result.verdict == "not covered" for result in results):
            missing.setdefault(level, []).append(layer)
    parts = (f"{level}s {', '.join(layers)}" for level, layers in missing.items())
    return f"not covered: {'; '.join(parts)}" if missing else ""


def totals_text(report: Report) -> str:
    """The counts and the score in one line."""
    counts = ", ".join(f"{count} {name}" for name, count in report.counts().items() if count)
    score = "" if report.score is None else f"; {report.score:.1%} of those that ran pass"
    return f"{counts or 'no cases'}{score}"


def grouped(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """The results by level and layer, in order."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.level, result.layer), []).append(result)
    return groups


def _cell(results: list[Result]) -> Text:
    ran = [result for result in results if result.ran]
    if not results:
        return Text()
    if not ran:
        return Text("not covered" if all(result.verdict == "not covered" for result in results) else "unsupported")
    passed = [result for result in ran if result.verdict == "pass"]
    shares = [result.judgement.share for result in ran if result.judgement.share is not None]
    share = f" {min(max(shares), 9999):.2f}" if shares and max(shares) > 0 else ""
    count = f"{len(passed)}/{len(ran)}{share}"
    return Text(count, style="" if len(passed) == len(ran) else "bold red")
