"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


class Target(click.Path):
    """A file to write, refused before the work begins when it could not be written after it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path: Any = super().convert(value, parameter, context)
        if not path.name or not path.parent.is_dir():
            self.fail(f"{str(path)!r} cannot be written: {str(path.parent)!r} is no directory", parameter, context)
        return path


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console(**options: Any) -> Console:
    """Standard output; rich obeys NO_COLOR and prints plainly into a pipe, where no line is cut."""
    made = Console(highlight=False, **options)
    if not made.is_terminal and "width" not in options:
        made.width = 10_000
    return made


def print_json(value: Any) -> None:
    """`value` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows under a header, without a frame."""
    # Text, because in a string rich would read [brackets] as markup.
    drawn = Table(*(Column(Text(name)) for name in columns), box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def print_rows(rows: list[Mapping[str, Any]], *, as_json: bool) -> None:
    """A list of records with equal keys; nothing else goes to standard output. In a pipe a record is a line."""
    if as_json:
        print_json(rows)
        return
    if rows:
        console().print(table(list(rows[0]), ([format_value(value) for value in row.values()] for row in rows)))


def format_value(value: Any) -> str:
    """Numbers with thousands separators, lists one entry a line."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return str(value)
