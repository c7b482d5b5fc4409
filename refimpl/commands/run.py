"""`refimpl run`: a checkpoint, some tokens, the tokens that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from refimpl import api
from refimpl.commands.output import json_option, print_json
from refimpl.commands.tokens import parse_row
from refimpl.drafters import Drafter, ModelDrafter, MultiTokenDrafter, as_drafter
from refimpl.generate import generate
from refimpl.model import Model, check_tokens
from refimpl.numerics import COMPUTE_FORMATS
from refimpl.sampler import Sampling
from refimpl.speculative import Speculated, speculate

SELF = "self"


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--tokens", help="The prompt as token ids: 1,2,3.")
@click.option("--prompt", help="The prompt as text; needs tokenizer.json in the directory and the `tokenizers` extra.")
@click.option("--max-new-tokens", type=click.IntRange(min=0), default=16, show_default=True)
@click.option("--dtype", default="float32", show_default=True, help=f"One of {', '.join(COMPUTE_FORMATS)}.")
@click.option("--stream", is_flag=True, help="Hold one layer's weights at a time instead of all.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the K likeliest tokens alone.")
@click.option(
    "--top-p", type=click.FloatRange(min=0, max=1, min_open=True), help="Draw from the fewest that have P together alone."
)
@click.option(
    "--min-p", type=click.FloatRange(min=0, max=1), help="Draw from those with P times the largest probability alone."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random numbers.")
@click.option("--draft", help=f"The checkpoint of a smaller model that drafts, or {SELF!r}: the model's multi-token modules.")
@click.option(
    "--draft-tokens", type=click.IntRange(min=1), default=4, show_default=True, help="How many are drafted at a time."
)
@json_option
def run(
    checkpoint: Path,
    tokens: str | None,
    prompt: str | None,
    max_new_tokens: int,
    dtype: str,
    stream: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
    draft: str | None,
    draft_tokens: int,
    as_json: bool,
) -> None:
    """Continue a prompt from CHECKPOINT, a Hugging Face directory, with the NumPy specification."""
    if (tokens is None) == (prompt is None):
        raise click.UsageError("give the prompt with either --tokens or --prompt")
    if temperature == 0 and any(value is not None for value in (top_k, top_p, min_p)):
        raise click.UsageError("--top-k, --top-p and --min-p need a --temperature above 0")
    tokenizer: Any = None if prompt is None else _tokenizer(checkpoint)
    ids = parse_row(tokens) if tokens is not None else tokenizer.encode(prompt).ids
    model = api.load(checkpoint, dtype, stream=stream)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    found: Speculated | None = None
    if draft is None:
        continued = generate(model, np.array([ids], dtype=np.int64), max_new_tokens, sampler=sampling)[0, len(ids) :].tolist()
    else:
        start = check_tokens([ids], model.blueprint.vocab_size)
        found = speculate(
            model, start, max_new_tokens, _drafter(draft, model, dtype, stream), sampling, draft_tokens=draft_tokens
        )
        (continued,) = found.new
    text = None if tokenizer is None else tokenizer.decode(continued)
    if as_json:
        counts = {} if found is None else {"drafted": found.drafted, "accepted": found.accepted, "calls": found.calls}
        print_json({"prompt": ids, "tokens": continued, "text": text, **counts})
        return
    click.echo(text if text is not None else ",".join(map(str, continued)))
    if found is not None:
        click.echo(f"{found.accepted} of {found.drafted} drafts accepted, {found.calls} calls of the model", err=True)


def _drafter(draft: str, model: Model, dtype: str, stream: bool) -> Drafter:
    if draft == SELF:
        return MultiTokenDrafter(model)
    return as_drafter(ModelDrafter(api.load(draft, dtype, stream=stream)), model.blueprint.vocab_size)


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
