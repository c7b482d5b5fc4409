"""`refimpl diagnose`: which known bug an implementation looks like, from its answers alone."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from refimpl.commands.output import json_option, print_json
from refimpl.commands.tokens import parse_rows


@click.command()
@click.argument("backend", required=False)
@click.option("-k", "expression", metavar="EXPR", help="Only cases whose id matches.")
@click.option("--level", metavar="LEVEL", help="layer or model. Default: both.")
@click.option("--dtype", "dtype", metavar="DTYPE", help="Default: those that the backend claims; of --logits: float32.")
@click.option("--logits", type=click.Path(path_type=Path), help="What an engine answered: a .npy file [B, T, V] or [T, V].")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The model of --logits.")
@click.option("--tokens", multiple=True, help="What --logits were computed from: 1,2,3; once a row.")
@json_option
def diagnose(
    backend: str | None,
    expression: str | None,
    level: str | None,
    dtype: str | None,
    logits: Path | None,
    checkpoint: Path | None,
    tokens: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compare what BACKEND answers, or --logits that an engine wrote, with every known bug; of --logits also in pairs.

    Status 0: nothing is wrong; 1: something is.
    """
    if (backend is None) == (logits is None):
        raise click.UsageError("give either BACKEND or --logits with --checkpoint and --tokens")
    if logits is not None:
        if checkpoint is None or not tokens:
            raise click.UsageError("--logits needs --checkpoint and --tokens, of which they were computed")
        return _diagnose_logits(logits, checkpoint, parse_rows(tokens), dtype or "float32", as_json=as_json)
    assert backend is not None
    return _diagnose_backend(backend, expression, level, dtype, as_json=as_json)


def _diagnose_logits(logits: Path, checkpoint: Path, rows: list[list[int]], dtype: str, *, as_json: bool) -> int:
    from conformance.engine_diagnosis import diagnose_logits

    try:
        answered = np.load(logits, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise click.UsageError(f"{logits}: not an array ({' '.join(str(error).split())})") from None
    found = diagnose_logits(checkpoint, rows, answered, dtype)
    if as_json:
        print_json(found.record())
    else:
        click.echo(found.text())
    return int(not found.right)


def _diagnose_backend(backend: str, expression: str | None, level: str | None, dtype: str | None, *, as_json: bool) -> int:
    from conformance import run
    from conformance.diagnosis import ranked
    from conformance.text import diagnosis_text

    levels = (level,) if level else ("layer", "model")
    report = run(backend, k=expression, level=levels, dtype=dtype, max_examples=0, diagnose=True)
    failures = [result for result in report.results if result.failed]
    found = ranked(failures)
    if as_json:
        print_json({"failures": len(failures), "suspects": [one.record() for one in found]})
    else:
        click.echo(diagnosis_text(failures, found))
    return int(bool(failures))


COMMANDS = [diagnose]
