"""Reports in short: Markdown for the page of a run in continuous integration, and a badge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from conformance.files import printable
from conformance.grid import Cell, Grid, grid, number, verdict_line
from conformance.report import TOO_FEW, Report
from conformance.text import reproduce_line, totals_text

# Failures that the Markdown names; such pages have a limited size.
MOST_NAMED = 50


def as_markdown(reports: Sequence[Report], names: Sequence[str] = ()) -> str:
    """What came out, the grid, and the failures with the bugs that they look like."""
    shown = grid(reports, names)
    lines = [f"## Conformance to refimpl {', '.join(shown.spec_versions)}", ""]
    if len(shown.spec_versions) > 1:
        lines += ["The reports are of different versions of the specification.", ""]
    lines += _table(
        ["backend", "result", "cases", "specification"],
        (
            [label, f"{'✓' if report.ok else '✗'} {verdict_line(report)}", totals_text(report), report.spec_version]
            for label, report in zip(shown.labels, reports, strict=True)
        ),
    )
    heads = [f"{shown.labels[column.report]} {column.dtype}" for column in shown.columns]
    rows = ([row.level, row.layer, *map(_cell, row.cells)] for row in shown.rows)
    lines += ["", *_table(["level", "layer", *heads], rows)]
    lines += ["", "A number is the largest error as a share of its budget; above 1 a case fails.", *_failures(shown)]
    return "\n".join(lines) + "\n"


def as_badge(reports: Sequence[Report]) -> str:
    """JSON for an endpoint badge of shields.io. Of several reports it names each backend, and has the colour of the worst."""
    versions = {report.spec_version for report in reports}
    messages = [verdict_line(report) if len(reports) == 1 else f"{report.backend} {verdict_line(report)}" for report in reports]
    badge = {
        "schemaVersion": 1,
        "label": f"refimpl {versions.pop()}" if len(versions) == 1 else "refimpl",
        "message": printable("; ".join(messages)),
        "color": COLOURS[max(map(_badness, reports))],
    }
    return json.dumps(badge, ensure_ascii=False) + "\n"


COLOURS = ("brightgreen", "yellowgreen", "lightgrey", "red")


def _badness(report: Report) -> int:
    if report.failures():
        return COLOURS.index("red")
    if report.exit_code == TOO_FEW:
        return COLOURS.index("lightgrey")
    return COLOURS.index("yellowgreen" if report.expected_failures() else "brightgreen")


def _failures(shown: Grid) -> list[str]:
    failed = [(report, result) for report in shown.reports for result in report.failures()]
    if not failed:
        return []
    lines = ["", "### Failures", ""]
    for report, result in failed[:MOST_NAMED]:
        found = result.judgement
        looks = f" Looks like {' with '.join(found.suspects[0].mutants)}." if found.suspects else ""
        sentence = f"{result.verdict} {found.kind}".strip() + f": {found.sentence}.{looks}"
        lines.append(f"- {_code(result.id)} {escaped(sentence)} {_code(reproduce_line(result, report.reference))}")
    if len(failed) > MOST_NAMED:
        lines.append(f"- and {len(failed) - MOST_NAMED:,} more")
    return lines


def _cell(cell: Cell) -> str:
    return f"{cell.words} {number(cell.share)}".strip() if cell.ran else cell.words


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(each if each == "---" else escaped(each) for each in line) + " |" for line in lines]


def escaped(text: str) -> str:
    """Text as Markdown shows it, on one line."""
    plain = " ".join(printable(text).split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", plain).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """Text between more backticks than it has in a row."""
    plain = " ".join(printable(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{space}{plain}{space}{fence}"
