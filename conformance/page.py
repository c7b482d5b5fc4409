"""Reports as one HTML page, which needs neither scripts nor anything from elsewhere. Templates: `conformance/templates`.

The grid comes first; a cell leads to what is behind it, which the browser opens: rules, shares of every case, and of a failure
the numbers, a histogram of errors, the known bugs that it looks like, and the line that shows it again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from conformance.case import LEVELS
from conformance.files import printable
from conformance.grid import SYMBOLS, WORDS, Cell, Grid, Row, grid, number, settings_line, state_of, verdict_line
from conformance.histogram import Histogram
from conformance.report import Report
from conformance.text import reproduce_line, totals_text
from conformance.verdict import Result

# A column's failures that are shown in full in one place, those furthest off first; others are named with their shares.
MOST_FAILURES = 8


def as_html(reports: Sequence[Report], names: Sequence[str] = ()) -> str:
    """The page of one report, or of several side by side. names: of the files that they are from."""
    shown = grid(reports, names)
    sections = [Section(row, _rules(row), tuple(_parts(row, shown))) for row in shown.rows]
    levels = {level: [row for row in shown.rows if row.level == level] for level in LEVELS}
    return _environment().get_template("page.html").render(grid=shown, sections=sections, levels=levels)


@dataclass(frozen=True)
class Failure:
    """One failing case of one report. place: of the report among all. anchor: where in the page it is."""

    result: Result
    report: Report
    place: int
    label: str
    anchor: str

    @property
    def histogram(self) -> Histogram | None:
        bins = self.result.judgement.histogram
        return Histogram(bins) if bins else None

    @property
    def reproduce(self) -> str:
        return reproduce_line(self.result, self.report.reference)


@dataclass(frozen=True)
class Part:
    """A row at one dtype, of all reports that say something of it. columns: their places among the reports."""

    anchor: str
    dtype: str
    columns: tuple[int, ...]
    cells: tuple[tuple[str, Cell], ...]
    cases: dict[str, dict[int, Result]]
    failures: tuple[Failure, ...]
    reasons: dict[tuple[str, str], int]

    @cached_property
    def shown(self) -> dict[tuple[int, str], str]:
        """The anchors of the failures by report and case."""
        return {(one.place, one.result.id): one.anchor for one in self.failures}

    @property
    def left_out(self) -> int:
        """How many failures are in the table alone."""
        return sum(result.failed for _, cell in self.cells for result in cell.results) - len(self.failures)

    @property
    def says(self) -> str:
        """What each report says, in one line."""
        return "; ".join(f"{label} {cell.words}" for label, cell in self.cells)


@dataclass(frozen=True)
class Section:
    """All there is to say of a row. rules: their texts and short names."""

    row: Row
    rules: dict[str, str]
    parts: tuple[Part, ...]


def _parts(row: Row, shown: Grid) -> list[Part]:
    parts = []
    for dtype in dict.fromkeys(column.dtype for column in shown.columns):
        cells = {
            column.report: cell
            for column, cell in zip(shown.columns, row.cells, strict=True)
            if column.dtype == dtype and cell.state not in (None, "not covered")
        }
        cases: dict[str, dict[int, Result]] = {}
        failures: list[Failure] = []
        reasons: Counter[tuple[str, str]] = Counter()
        anchor = anchor_of(row, dtype)
        for place, cell in cells.items():
            for result in cell.results:
                cases.setdefault(result.id, {})[place] = result
                if result.verdict == "unsupported":
                    reasons[shown.labels[place], result.judgement.sentence] += 1
            worst = sorted((one for one in cell.results if one.failed), key=_urgency)[:MOST_FAILURES]
            failures += [
                Failure(result, shown.reports[place], place, shown.labels[place], f"{anchor}-{place}-{index}")
                for index, result in enumerate(worst)
            ]
        if cells:
            says = tuple((shown.labels[place], cell) for place, cell in cells.items())
            parts.append(Part(anchor, dtype, tuple(cells), says, dict(sorted(cases.items())), tuple(failures), dict(reasons)))
    return parts


def _urgency(result: Result) -> tuple[bool, float, str]:
    share = result.judgement.share
    return bool(result.expected), -(float("inf") if share is None else share), result.id


def anchor_of(row: Row, dtype: str) -> str:
    """Where in the page a cell leads, the same in every page, so that a link to it lasts."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", f"{row.level}_{row.layer}_{dtype}")


def _rules(row: Row) -> dict[str, str]:
    """What the cases of a row exercise, as the text of each by its short name: R1, or of a law its number."""
    texts = dict.fromkeys(text for cell in row.cells for result in cell.results for text in rule_texts(result.rule))
    named: dict[str, str] = {}
    for text in sorted(texts, key=lambda text: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]):
        label = text.split(":")[0] if _NUMBERED.match(text) else f"{row.level} {len(named) + 1}"
        while label in named.values():  # another text of the same number, of another version of the specification
            label += "'"
        named[text] = label
    return named


_NUMBERED = re.compile(r"R\d+: ")


def rule_texts(rule: str) -> list[str]:
    """The rules of a result apart, "R1: ..." each, or the sentence of a law."""
    return re.split(r"; (?=R\d+: )", rule) if rule else []


def said(text: str) -> str:
    """The text of a rule without its number."""
    return _NUMBERED.sub("", text)


def is_link(text: str) -> bool:
    """Whether a text may be a link: results files come from others, and a browser runs some addresses."""
    return re.match(r"https?://", text) is not None


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("conformance"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    made.filters |= {"number": number, "rule_texts": rule_texts, "said": said}
    made.tests["link"] = is_link
    helpers: dict[str, Any] = {
        "anchor_of": anchor_of,
        "most": MOST_FAILURES,
        "settings_line": settings_line,
        "state_of": state_of,
        "symbols": SYMBOLS,
        "totals_text": totals_text,
        "verdict_line": verdict_line,
        "words": WORDS,
    }
    made.globals |= helpers
    return made
