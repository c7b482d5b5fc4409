"""`refimpl diff`: the first intermediate value of a whole model that an implementation computes differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from refimpl.commands.output import json_option, print_json
from refimpl.commands.tokens import parse_rows

ROWS, LENGTH = 2, 24


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--backend", help="As for `refimpl conform`; one that shows its taps: numpy, onnxruntime, transformers, ...")
@click.option(
    "--dump", type=click.Path(path_type=Path), help="A directory of .npy or .safetensors files named after taps, in its place."
)
@click.option("--tokens", multiple=True, help="A row of token ids, 1,2,3; once a row. Default: two rows drawn at random.")
@click.option("--dtype", help="What the candidate computes in. Default: as the checkpoint is stored, if the backend claims it.")
@json_option
def diff(
    checkpoint: Path, backend: str | None, dump: Path | None, tokens: tuple[str, ...], dtype: str | None, as_json: bool
) -> int:
    """Run CHECKPOINT and another implementation of it, and stop at the first tap that differs.

    Status 0: no tap is outside its budget; 1: one is.
    """
    from conformance.difference import compare, expected_taps
    from conformance.taps import rules, tap_suspects, taps_of, tested_dtype
    from refimpl import api
    from refimpl.model import check_tokens

    if (backend is None) == (dump is None):
        raise click.UsageError("give the other implementation with either --backend or --dump")
    if dump is not None and not tokens:
        raise click.UsageError("--dump needs --tokens, those that its tensors were computed from")
    model = api.load(checkpoint)
    rows = check_tokens(parse_rows(tokens) if tokens else _drawn(model.blueprint.vocab_size), model.blueprint.vocab_size)
    tested = tested_dtype(dtype, backend, checkpoint)
    taps = taps_of(backend, dump, checkpoint, rows)
    expected = expected_taps(model, rows, tested)
    found = compare(expected, taps)
    difference = found.difference
    bugs = () if difference is None else tap_suspects(checkpoint, rows, expected, found, taps[difference.tap])
    if as_json:
        print_json({"dtype": tested, **found.record(), "suspects": [bug.record() for bug in bugs]})
        return int(difference is not None)
    counted = f"{len(found.compared)} taps compared, {len(found.skipped)} not shown"
    if found.unstable:
        counted += f"; {found.unstable:.0%} of the tokens left out, where experts or keys are nearly tied"
    if difference is None:
        click.echo(f"no difference: {counted} ({tested})")
        return 0
    judgement = difference.judgement
    click.echo(f"first difference: {difference.tap}, made by {difference.function}")
    click.echo(f"      {judgement.sentence}")
    if judgement.max_error is not None:
        click.echo(
            f"      max error {judgement.max_error:.1e} of {judgement.max_budget:.1e}     "
            f"rms {judgement.rms_error:.1e} of {judgement.rms_budget:.1e}"
        )
    if judgement.worst:
        click.echo(f"      worst at {judgement.worst}")
    for line in [f"looks like {bug.text()}" for bug in bugs] or rules(difference.function):
        click.echo(f"      {line}")
    click.echo(f"{counted} ({tested})")
    return 1


def _drawn(vocab_size: int) -> Any:
    return np.random.default_rng(0).integers(0, vocab_size, (ROWS, LENGTH))


COMMANDS = [diff]
