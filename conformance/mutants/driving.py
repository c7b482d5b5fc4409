"""Models that are right and called wrongly: padding, positions, cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.mutants.mutant import Engine, Mutant
from refimpl.numerics import Array


def padding_ignored(engine: Engine, tokens: Array, cache: Any = None, *, attention_mask: Array | None = None) -> Any:
    return engine(tokens, cache)


def columns_for_positions(engine: Engine, tokens: Array, cache: Any = None, *, attention_mask: Array | None = None) -> Any:
    if attention_mask is None:
        return engine(tokens, cache)
    columns = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1)) + (0 if cache is None else len(cache))
    return engine(tokens, cache, attention_mask=attention_mask, positions=columns)


def padding_stretches_positions(
    engine: Engine, tokens: Array, cache: Any = None, *, attention_mask: Array | None = None
) -> Any:
    positions = None if attention_mask is None else np.tile(np.arange(tokens.shape[1]), (len(tokens), 1)) * 2
    return engine(tokens, cache, attention_mask=attention_mask, positions=positions)


def decode_one_place_early(engine: Engine, tokens: Array, cache: Any = None, *, attention_mask: Array | None = None) -> Any:
    if cache is None or tokens.shape[1] > 1:
        return engine(tokens, cache, attention_mask=attention_mask)
    return engine(tokens, cache, positions=np.full(tokens.shape, len(cache) - 1))


def logits_of_the_last_token(engine: Engine, tokens: Array, cache: Any = None, *, attention_mask: Array | None = None) -> Any:
    logits, cache = engine(tokens, cache, attention_mask=attention_mask)
    return logits[:, -1:], cache


MUTANTS = (
    Mutant(id="padding-ignored", says="The mask of padding is not read.", call=padding_ignored, architectures=("smollm3",)),
    Mutant(
        id="left-pad-learned-absolute",
        says="Positions count the padding before them, which a learned table shows and a rotation does not.",
        call=columns_for_positions,
        architectures=("gpt2",),
    ),
    Mutant(
        id="positions-stretched-by-padding",
        says="Beside padding every second position is skipped.",
        call=padding_stretches_positions,
        architectures=("qwen3",),
    ),
    Mutant(
        id="decode-rope-position-off-by-one",
        says="A token that is decoded alone is rotated as the one before it.",
        call=decode_one_place_early,
        architectures=("smollm3", "qwen3"),
    ),
    Mutant(
        id="logits-of-the-last-token",
        says="Logits of earlier tokens are not returned.",
        call=logits_of_the_last_token,
        architectures=("qwen3",),
    ),
)
