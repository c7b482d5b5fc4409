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

    Status 0: no tap is outside its budget; 1: one is; 5: experts or keys are nearly tied at every token, which leaves none.
    """
    from conformance.difference import Taps, compare, expected_taps
    from conformance.doors import load_backend
    from conformance.dumps import read_dump
    from conformance.taps import tap_suspects, tested_dtype
    from conformance.text import comparison_text
    from refimpl import api
    from refimpl.model import check_tokens
    from refimpl.numerics import FORMATS

    if (backend is None) == (dump is None):
        raise click.UsageError("give the other implementation with either --backend or --dump")
    if dump is not None and not tokens:
        raise click.UsageError("--dump needs --tokens, those that its tensors were computed from")
    model = api.load(checkpoint)
    rows = check_tokens(parse_rows(tokens) if tokens else _drawn(model.blueprint.vocab_size), model.blueprint.vocab_size)
    taps: Taps
    if dump is not None:
        claimed, taps = tuple(FORMATS), read_dump(dump)
    else:
        assert backend is not None
        candidate = load_backend(backend)
        claimed, taps = candidate.dtypes, candidate.trace(checkpoint, rows)
    tested = tested_dtype(dtype, claimed, checkpoint)
    expected = expected_taps(model, rows, tested)
    found = compare(expected, taps)
    bugs = tap_suspects(checkpoint, rows, expected, found, taps)
    if as_json:
        print_json({"dtype": tested, **found.record(), "suspects": [bug.record() for bug in bugs]})
    else:
        click.echo(f"{comparison_text(found, bugs)} ({tested})")
    if found.difference is not None:
        return 1
    return 0 if found.stable.any() else 5


def _drawn(vocab_size: int) -> Any:
    return np.random.default_rng(0).integers(0, vocab_size, (ROWS, LENGTH))


COMMANDS = [diff]
