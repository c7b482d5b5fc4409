"""Decoding loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refimpl.drafters import Drafter, DraftFunction, as_drafter
from refimpl.model import Model, as_array, check_tokens
from refimpl.numerics import Array
from refimpl.sampler import Sampler, as_sampling, greedy, one_token_a_row
from refimpl.shapes import check_counts
from refimpl.speculative import speculate


def generate(
    model: Model,
    tokens: npt.ArrayLike,
    max_new_tokens: int = 32,
    *,
    attention_mask: npt.ArrayLike | None = None,
    sampler: Sampler = greedy,
    eos_token_id: int | None = None,
    speculative: Drafter | Model | DraftFunction | None = None,
    draft_tokens: int = 4,
) -> Array:
    """`tokens` [B, T] continued one token at a time with a cache: int [B, T + up to max_new_tokens].

    attention_mask: 0/1 [B, T]; prompts of unequal length are padded on the left.
    sampler: logits [B, V] to tokens [B]; greedy by default, `Sampling` draws.
    eos_token_id: a row that has produced it repeats it; decoding ends early when every row has.
    speculative: who drafts `draft_tokens` at a time for the model to verify, a `Drafter`, a smaller `Model` or a function from
      the tokens of a row and a count to so many tokens. Greedy text is the same without it; text that is drawn has the same
      distribution.
    """
    _check_limits(model, max_new_tokens, eos_token_id, draft_tokens)
    if not callable(sampler):
        raise ValueError(f"generate: sampler is {sampler!r} but needs a function from logits [B, V] to tokens [B]")
    prompt = check_tokens(tokens, model.blueprint.vocab_size)
    mask = None if attention_mask is None else as_array("attention_mask", attention_mask)
    if mask is not None and mask.ndim == 2 and mask.shape[1] and not mask[:, -1].all():
        raise ValueError("generate: attention_mask has padding on the right, where the new tokens go; pad on the left")
    if speculative is None:
        return _one_by_one(model, prompt, max_new_tokens, mask, sampler, eos_token_id)
    found = speculate(
        model,
        prompt,
        max_new_tokens,
        as_drafter(speculative, model.blueprint.vocab_size),
        as_sampling(sampler),
        draft_tokens=draft_tokens,
        attention_mask=mask,
        eos_token_id=eos_token_id,
    )
    result = np.full((len(prompt), max(map(len, found.new))), eos_token_id or 0, np.int64)
    for row, new in zip(result, found.new, strict=True):
        row[: len(new)] = new
    return np.concatenate([prompt, result], axis=1)


def _one_by_one(
    model: Model, sequence: Array, max_new_tokens: int, mask: Array | None, sampler: Sampler, eos_token_id: int | None
) -> Array:
    ended = np.zeros(len(sequence), dtype=bool)
    new, cache = sequence, None
    for _ in range(max_new_tokens):
        logits, cache = model(new, cache, attention_mask=mask)
        chosen = one_token_a_row(sampler(logits[:, -1]), len(sequence))
        if eos_token_id is not None:
            chosen = np.where(ended, eos_token_id, chosen)
            ended |= chosen == eos_token_id
        new, mask = chosen[:, None].astype(np.int64), None
        sequence = np.concatenate([sequence, new], axis=1)
        if eos_token_id is not None and ended.all():
            break
    return sequence


def _check_limits(model: Model, max_new_tokens: int, eos_token_id: int | None, draft_tokens: int) -> None:
    if not isinstance(model, Model):
        raise ValueError(f"generate: model is a {type(model).__name__} but needs a refimpl.Model")
    vocab_size = model.blueprint.vocab_size
    if eos_token_id is not None and not (type(eos_token_id) is int and 0 <= eos_token_id < vocab_size):
        raise ValueError(f"generate: eos_token_id is {eos_token_id!r} but must be an integer in 0 .. {vocab_size - 1}")
    if not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 0:
        raise ValueError(f"generate: max_new_tokens is {max_new_tokens!r} but needs a number, 0 or more")
    check_counts("generate", draft_tokens=draft_tokens)
