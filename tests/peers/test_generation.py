"""Greedy decoding chooses the tokens that transformers' own decoding loop chooses."""

from __future__ import annotations

import numpy as np

import refimpl

from .comparison import Pair
from .conftest import PairOf

NEW = 16


def test_greedy(pair: Pair) -> None:
    tokens = pair.tokens(3, 7)
    sequence = refimpl.generate(pair.model, tokens, max_new_tokens=NEW)
    assert np.array_equal(sequence, pair.peer.generate(tokens, NEW))
    assert len(np.unique(sequence[:, 7:])) > 3, "rows that repeat one token would compare little"


def test_greedy_from_prompts_of_unequal_length(positioned_pair: Pair) -> None:
    pair = positioned_pair
    tokens = pair.tokens(3, 11)
    mask = np.ones_like(tokens)
    mask[1, :4] = mask[2, :9] = 0
    sequence = refimpl.generate(pair.model, tokens, max_new_tokens=NEW, attention_mask=mask)
    assert np.array_equal(sequence, pair.peer.generate(tokens, NEW, attention_mask=mask))


def test_a_row_that_has_ended_repeats_its_last_token(pair_of: PairOf) -> None:
    pair = pair_of("qwen3-untied")
    tokens = pair.tokens(3, 7)
    free = refimpl.generate(pair.model, tokens, max_new_tokens=NEW)
    end = int(free[0, 9])
    sequence = refimpl.generate(pair.model, tokens, max_new_tokens=NEW, eos_token_id=end)
    assert not np.array_equal(sequence, free)
    assert np.array_equal(sequence, pair.peer.generate(tokens, NEW, eos_token_id=end, pad_token_id=end))


def test_decoding_stops_when_every_row_has_ended(pair_of: PairOf) -> None:
    pair = pair_of("qwen3-untied")
    tokens = pair.tokens(1, 7)
    end = int(refimpl.generate(pair.model, tokens, max_new_tokens=NEW)[0, 9])
    sequence = refimpl.generate(pair.model, tokens, max_new_tokens=NEW, eos_token_id=end)
    assert sequence.shape[1] < 7 + NEW
    assert np.array_equal(sequence, pair.peer.generate(tokens, NEW, eos_token_id=end, pad_token_id=end))
