"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console(**options: Any) -> Console:
    """Standard output; rich obeys NO_COLOR and prints plainly into a pipe."""
    return Console(highlight=False, **options)


def print_json(value: Any) -> None:
    """`value` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows under a header, without a frame."""
    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def print_rows(rows: list[Mapping[str, Any]], *, as_json: bool) -> None:
    """A list of records with equal keys; nothing else goes to standard output. In a pipe a record is a line."""
    if as_json:
        print_json(rows)
        return
    out = console()
    if not out.is_terminal:
        out.width = 10_000
    if rows:
        out.print(table(list(rows[0]), ([format_value(value) for value in row.values()] for row in rows)))


def format_value(value: Any) -> str:
    """Numbers with thousands separators, lists one entry a line."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return str(value)
