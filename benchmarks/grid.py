"""The grid of docs/grid.md: what the suite says of every backend, layer by layer and model by model.

Run: python benchmarks/grid.py RESULTS.json... > docs/grid.md, with the files that `refimpl conform BACKEND --json` wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from conformance.grid import Cell, Column, Row, grid
from conformance.report import Report
from conformance.results_file import read_report

LEVELS = {"layer": "Layers", "block": "Blocks", "model": "Models", "law": "Laws"}
HEAD = """# The grid

What the suite says of every backend that is installed here, on a CPU. ✓ passes, ✗ fails at the formats that are named, ≈ fails
as the file of known failures says, – is not supported by it; an empty cell is not offered. The number is the largest error as a
share of its budget, over all cases and formats: above 1 a case fails. What is wrong where is in [findings.md](findings.md).

Drawn cases: 30 a layer and format, 5 for jax, whose operations are compiled for every shape; whole models at every format that
a backend claims. In blocks a backend computes those layers that it has, and the specification the others.

To repeat it: `refimpl conform BACKEND --profile ci --max-examples 30 --xfails-file .ci/NAME.xfails --json FILE.json` for each
backend, then `python benchmarks/grid.py *.json`. `refimpl report *.json --html grid.html` shows the same files with every case.
"""
SHORT = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16", "int64": "int"}


def main(paths: Sequence[str]) -> None:
    reports = [read_report(path) for path in paths]
    print(HEAD)
    print(
        *table(["backend", "version", "formats", "pass", "of", "known failures", "other failures"], totals(reports)), sep="\n"
    )
    shown = grid(reports)
    for level, title in LEVELS.items():
        rows = [row for row in shown.rows if row.level == level]
        covering = [place for place in range(len(reports)) if any(has_run(part(row, shown.columns, place)) for row in rows)]
        if not covering:
            continue
        cells = ([row.layer, *(cell_text(part(row, shown.columns, place)) for place in covering)] for row in rows)
        print(f"\n## {title}\n", *table([title.lower(), *(reports[place].backend for place in covering)], cells), sep="\n")


def totals(reports: Iterable[Report]) -> Iterable[list[str]]:
    for report in reports:
        ran = sum(result.ran for result in report.results)
        formats = ", ".join(SHORT[dtype] for dtype in report.settings["dtypes"])
        numbers = (report.counts()["pass"], ran, report.counts()["expected"], len(report.failures()))
        yield [report.backend, report.version, formats, *(f"{number:,}" for number in numbers)]


def part(row: Row, columns: Sequence[Column], place: int) -> dict[str, Cell]:
    """The cells of a row that are of one report, by format."""
    return {column.dtype: cell for column, cell in zip(columns, row.cells, strict=True) if column.report == place}


def has_run(cells: dict[str, Cell]) -> bool:
    return any(cell.ran for cell in cells.values())


def cell_text(cells: dict[str, Cell]) -> str:
    """One symbol for all formats, and the largest share."""
    states = {dtype: cell.state for dtype, cell in cells.items()}
    share = max((cell.share for cell in cells.values() if cell.share is not None), default=None)
    number = "" if share is None else f" {share:.2f}" if share < 10 else f" {share:.0f}" if share < 1000 else f" {share:.0e}"
    for state, symbol in (("error", "✗"), ("fail", "✗"), ("expected", "≈")):
        wrong = [SHORT[dtype] for dtype, found in states.items() if found == state]
        if wrong:  # a share of 1 or less is that of the cases that pass: the others are wrong in another way
            return f"{symbol}{number if share and share > 1 else ''} ({' '.join(wrong)})"
    if has_run(cells):
        return f"✓{number}"
    return "–" if "unsupported" in states.values() else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


if __name__ == "__main__":
    main(sys.argv[1:])
