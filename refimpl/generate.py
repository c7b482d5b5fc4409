"""Decoding loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refimpl.model import Model, as_array, check_tokens
from refimpl.numerics import Array

Sampler = Callable[[Array], Array]


def greedy(logits: Array) -> Array:
    """The most likely token of each row: logits [B, V] to tokens int [B]; of equal logits the first."""
    return np.argmax(logits, axis=-1)


def generate(
    model: Model,
    tokens: npt.ArrayLike,
    max_new_tokens: int = 32,
    *,
    attention_mask: npt.ArrayLike | None = None,
    sampler: Sampler = greedy,
    eos_token_id: int | None = None,
) -> Array:
    """`tokens` [B, T] continued one token at a time with a cache: int [B, T + up to max_new_tokens].

    attention_mask: 0/1 [B, T]; prompts of unequal length are padded on the left.
    sampler: logits [B, V] to tokens [B]; greedy by default.
    eos_token_id: a row that has produced it repeats it; decoding ends early when every row has.
    """
    if not isinstance(model, Model):
        raise ValueError(f"generate: model is a {type(model).__name__} but needs a refimpl.Model")
    if not callable(sampler):
        raise ValueError(f"generate: sampler is {sampler!r} but needs a function from logits [B, V] to tokens [B]")
    vocab_size = model.blueprint.vocab_size
    if eos_token_id is not None and not (type(eos_token_id) is int and 0 <= eos_token_id < vocab_size):
        raise ValueError(f"generate: eos_token_id is {eos_token_id!r} but must be an integer in 0 .. {vocab_size - 1}")
    if not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 0:
        raise ValueError(f"generate: max_new_tokens is {max_new_tokens!r} but needs a number, 0 or more")
    sequence = check_tokens(tokens, vocab_size)
    mask = None if attention_mask is None else as_array("attention_mask", attention_mask)
    if mask is not None and mask.ndim == 2 and mask.shape[1] and not mask[:, -1].all():
        raise ValueError("generate: attention_mask has padding on the right, where the new tokens go; pad on the left")
    ended = np.zeros(len(sequence), dtype=bool)
    new, cache = sequence, None
    for _ in range(max_new_tokens):
        logits, cache = model(new, cache, attention_mask=mask)
        chosen = _one_token_a_row(sampler(logits[:, -1]), len(sequence))
        if eos_token_id is not None:
            chosen = np.where(ended, eos_token_id, chosen)
            ended |= chosen == eos_token_id
        new, mask = chosen[:, None].astype(np.int64), None
        sequence = np.concatenate([sequence, new], axis=1)
        if eos_token_id is not None and ended.all():
            break
    return sequence


def _one_token_a_row(chosen: Any, rows: int) -> Array:
    array = np.asarray(chosen)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"generate: sampler returned shape {array.shape} and dtype {array.dtype} but must give integers ({rows},)"
        )
    return array
