"""Reports side by side: layers, blocks, models and laws as rows, backends by dtypes as columns.

What the pages and summaries are made of (`conformance.page`, `conformance.summary`). Results are taken in the order of their
ids, so that a report gives the same page whether it was just made or read from its file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from conformance.case import LEVELS, TOKENS
from conformance.report import Report
from conformance.verdict import Result

State = Literal["fail", "error", "expected", "pass", "unsupported", "not covered"]
# The first that occurs among the results of a cell is what the cell says.
SYMBOLS: dict[State, str] = {"fail": "✗", "error": "!", "expected": "≈", "pass": "✓", "unsupported": "–", "not covered": "·"}
WORDS: dict[State, str] = {
    "fail": "fails: outside the budget, or wrong in another way",
    "error": "error: raised, did not answer in time, or ended its process",
    "expected": "expected: fails, and the file of known failures lists it",
    "pass": "passes",
    "unsupported": "unsupported: the backend says so",
    "not covered": "not covered: the backend does not offer it",
}
SETTINGS = {"k": "-k", "level": "levels", "dtypes": "dtypes", "max_examples": "drawn cases a layer and dtype", "seed": "seed"}


@dataclass(frozen=True)
class Column:
    """A dtype of a report, by its place among the reports."""

    report: int
    dtype: str


@dataclass(frozen=True)
class Cell:
    """What one report says of one row at one dtype; without results nothing."""

    results: tuple[Result, ...] = ()

    @property
    def state(self) -> State | None:
        found = {state_of(result) for result in self.results}
        return next((state for state in SYMBOLS if state in found), None)

    @property
    def share(self) -> float | None:
        """The largest share of the budget, None where nothing was measured."""
        shares = [result.judgement.share for result in self.results if result.judgement.share is not None]
        return max(shares, default=None)

    def count(self, *states: State) -> int:
        """How many results are in one of these states."""
        return sum(state_of(result) in states for result in self.results)

    @property
    def ran(self) -> int:
        return sum(result.ran for result in self.results)

    @property
    def words(self) -> str:
        """Symbol, word and, where it is not simply all that ran, how many."""
        if self.state is None:
            return ""
        count = f" {self.count(self.state)} of {self.ran}" if self.state in ("fail", "error", "expected") else ""
        return f"{SYMBOLS[self.state]} {self.state}{count}"


@dataclass(frozen=True)
class Row:
    """A layer, a block, a model, or what laws are about. cells: one a column."""

    level: str
    layer: str
    cells: tuple[Cell, ...]

    @property
    def failed(self) -> bool:
        return any(cell.state in ("fail", "error") for cell in self.cells)


@dataclass(frozen=True)
class Grid:
    """labels: what each report is called. idle: by level, what no report covers, which has no row."""

    reports: tuple[Report, ...]
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    idle: dict[str, list[str]] = field(default_factory=dict)

    @property
    def spec_versions(self) -> list[str]:
        return sorted({report.spec_version for report in self.reports})


def grid(reports: Sequence[Report], names: Sequence[str] = ()) -> Grid:
    """The grid of reports. names: of the files they are from, to tell reports of one backend apart."""
    if not reports:
        raise ValueError("a grid needs a report or more, but got none")
    columns = [
        Column(number, dtype)
        for number, report in enumerate(reports)
        for dtype in _in_order({result.dtype for result in report.results}, TOKENS)
    ]
    found: dict[tuple[str, str], dict[Column, list[Result]]] = {}
    for number, report in enumerate(reports):
        for result in sorted(report.results, key=lambda one: one.id):
            cells = found.setdefault((result.level, result.layer), {})
            cells.setdefault(Column(number, result.dtype), []).append(result)
    rows = []
    idle: dict[str, list[str]] = {}
    for level, layer in sorted(found, key=lambda key: (LEVELS.index(key[0]), key[1])):
        cells = found[level, layer]
        row = Row(level, layer, tuple(Cell(tuple(cells.get(column, ()))) for column in columns))
        if all(cell.state in (None, "not covered") for cell in row.cells):
            idle.setdefault(level, []).append(layer)
        else:
            rows.append(row)
    return Grid(tuple(reports), tuple(_labels(reports, names)), tuple(columns), tuple(rows), idle)


def state_of(result: Result) -> State:
    """The verdict, with failures that were to be expected apart."""
    return "expected" if result.failed and result.expected else result.verdict


def verdict_line(report: Report) -> str:
    """Whether a report conforms, in the words of a badge: "conforms 1,723", "12 fail of 1,723"."""
    ran, failures = sum(result.ran for result in report.results), len(report.failures())
    if failures:
        return f"{failures:,} fail of {ran:,}"
    if report.too_few:
        return f"too little ran: {ran:,}"
    expected = len(report.expected_failures())
    return f"conforms {ran - expected:,}" + (f", {expected:,} expected to fail" if expected else "")


def settings_line(report: Report) -> str:
    """What was asked for, in one line."""
    asked = {SETTINGS.get(key, key): value for key, value in report.settings.items() if value is not None}
    return "; ".join(
        f"{key} {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}" for key, value in asked.items()
    )


def number(value: float | None) -> str:
    """Three digits, as many as the file keeps."""
    return "" if value is None else f"{value:.3g}"


def _labels(reports: Sequence[Report], names: Sequence[str]) -> list[str]:
    own = [f"{report.backend} {report.version}".strip() for report in reports]
    times = Counter(own)
    names = names or [str(place) for place in range(1, len(reports) + 1)]
    return [label if times[label] == 1 else f"{label} ({name})" for label, name in zip(own, names, strict=True)]


def _in_order(found: Iterable[str], order: Iterable[str]) -> list[str]:
    """Those that are found, in a known order; others after them."""
    known = list(order)
    return sorted(found, key=lambda each: (known.index(each) if each in known else len(known), each))
