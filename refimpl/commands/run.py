"""`refimpl run`: a checkpoint, some tokens, the tokens that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from refimpl import api
from refimpl.commands.output import json_option, print_json
from refimpl.generate import generate
from refimpl.numerics import COMPUTE_FORMATS


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--tokens", help="The prompt as token ids: 1,2,3.")
@click.option("--prompt", help="The prompt as text; needs tokenizer.json in the directory and the `tokenizers` extra.")
@click.option("--max-new-tokens", type=click.IntRange(min=0), default=16, show_default=True)
@click.option("--dtype", default="float32", show_default=True, help=f"One of {', '.join(COMPUTE_FORMATS)}.")
@click.option("--stream", is_flag=True, help="Hold one layer's weights at a time instead of all.")
@json_option
def run(
    checkpoint: Path, tokens: str | None, prompt: str | None, max_new_tokens: int, dtype: str, stream: bool, as_json: bool
) -> None:
    """Decode greedily from CHECKPOINT, a Hugging Face directory, with the NumPy specification."""
    if (tokens is None) == (prompt is None):
        raise click.UsageError("give the prompt with either --tokens or --prompt")
    tokenizer: Any = None if prompt is None else _tokenizer(checkpoint)
    ids = _parse(tokens) if tokens is not None else tokenizer.encode(prompt).ids
    model = api.load(checkpoint, dtype, stream=stream)
    continued = generate(model, np.array([ids], dtype=np.int64), max_new_tokens)[0, len(ids) :].tolist()
    text = None if tokenizer is None else tokenizer.decode(continued)
    if as_json:
        print_json({"prompt": ids, "tokens": continued, "text": text})
    else:
        click.echo(text if text is not None else ",".join(map(str, continued)))


def _parse(tokens: str) -> list[int]:
    try:
        return [int(np.int64(int(token))) for token in tokens.split(",")]
    except (ValueError, OverflowError):
        raise click.UsageError(f"--tokens is {tokens!r} but needs integers separated by commas, like 1,2,3") from None


def _tokenizer(checkpoint: Path) -> Any:
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise click.UsageError(f"{path}: no such file, so --prompt cannot be read; give --tokens")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise click.UsageError("--prompt needs the tokenizers extra: pip install 'refimpl[tokenizers]'") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise click.UsageError(f"{path}: not a tokenizer ({error})") from None


COMMANDS = [run]
