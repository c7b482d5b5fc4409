"""Tokens on the command line: 1,2,3."""

from __future__ import annotations

from collections.abc import Sequence

import click
import numpy as np


def parse_row(row: str) -> list[int]:
    """One row of token ids."""
    try:
        return [int(np.int64(int(token))) for token in row.split(",")]
    except (ValueError, OverflowError):
        raise click.UsageError(f"--tokens is {row!r} but needs integers separated by commas, like 1,2,3") from None


def parse_rows(rows: Sequence[str]) -> list[list[int]]:
    """Rows of one length."""
    found = [parse_row(row) for row in rows]
    if len({len(row) for row in found}) != 1:
        raise click.UsageError(f"--tokens are rows of {', '.join(str(len(row)) for row in found)} but need one length")
    return found
