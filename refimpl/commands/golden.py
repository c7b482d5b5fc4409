"""`refimpl golden`: the fixed tensors, checked or made anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from refimpl.commands.output import json_option, print_json


@click.group()
def golden() -> None:
    """Golden tensors: float64 results of every layer and of one small model an architecture."""


@golden.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@json_option
def verify(directory: Path | None, as_json: bool) -> int:
    """Recompute every golden tensor; status 1 when one is missing, altered or no longer what the specification gives."""
    import golden as store

    verdicts = list(store.verify(directory))
    failed = [verdict for verdict in verdicts if verdict.problem is not None]
    if as_json:
        print_json([vars(verdict) for verdict in verdicts])
    else:
        for verdict in failed:
            click.echo(f"FAIL  {verdict.id}: {verdict.problem}")
        click.echo(f"{len(verdicts) - len(failed)} of {len(verdicts)} golden entries hold")
    return int(bool(failed))


@golden.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--unconfirmed", is_flag=True, help="Do not ask other implementations for the models' logits.")
def make(directory: Path | None, unconfirmed: bool) -> None:
    """Write the golden tensors anew, the models' logits confirmed in float64 by transformers, or by the peer in tests/peers."""
    import golden as store

    confirm: Any = None if unconfirmed else _confirm()
    click.echo(store.make(directory, confirm=confirm))


def _confirm() -> Any:
    import golden as store

    sys.path.insert(0, str(Path(store.__file__).parents[1]))
    try:
        from tests.peers.reference import float64_logits
    except ImportError:
        raise click.UsageError(
            "golden make runs in a checkout of the repository with torch and transformers installed; --unconfirmed does without"
        ) from None
    return float64_logits


COMMANDS = [golden]
