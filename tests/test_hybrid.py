"""Models whose layers keep states of one size beside a cache that grows: pieces, padding, decoding, rollback, speculation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl import Cache, Model, ModelDrafter, MultiTokenDrafter, Sampling, rollback
from refimpl.ops import NumpyOps, Rounded
from tests.models import test_kimi_linear, test_qwen3_next
from tests.test_speculative import sensitive, sometimes_right
from tests.tiny import tokens

VOCAB = 53
MODELS = {
    "qwen3_next": refimpl.init(test_qwen3_next.config(full_attention_interval=2), seed=1, dtype="float64"),
    "qwen3_next_linear": refimpl.init(test_qwen3_next.config(layer_types=["linear_attention"] * 4), seed=1, dtype="float64"),
    "kimi_linear": refimpl.init(test_kimi_linear.config(), seed=1, dtype="float64"),
}
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
# Padding in front, between and behind; the last row is whole.
MASK = np.array([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]])


def text(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return tokens(batch, length, vocab_size=VOCAB, seed=seed)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)


def in_pieces(model: Model, whole: np.ndarray, ends: Sequence[int], mask: np.ndarray | None = None) -> tuple[np.ndarray, Cache]:
    """Logits and cache of tokens that come in pieces which end at `ends` and at the last one."""
    cache, found = None, []
    for start, stop in pairwise([0, *ends, whole.shape[1]]):
        logits, cache = model(whole[:, start:stop], cache, attention_mask=None if mask is None else mask[:, :stop])
        found.append(logits)
    assert cache is not None
    return np.concatenate(found, axis=1), cache


def same_states(found: Cache, expected: Cache) -> None:
    for state, other in zip(found.states, expected.states, strict=True):
        assert state.keys() == other.keys()
        for name, array in state.items():
            close(array, other[name])


@EVERY
@pytest.mark.parametrize("ends", [[5], [1, 2, 3], [2, 3, 8], list(range(1, 13))])
def test_pieces_are_the_whole(model: Model, ends: list[int]) -> None:
    whole, cache = model(text(2, 13))
    found, continued = in_pieces(model, text(2, 13), ends)
    close(found, whole)
    same_states(continued, cache)


@EVERY
@pytest.mark.parametrize("ends", [[], [4], [1, 2, 5, 7]])
def test_a_padded_row_is_the_row_alone(model: Model, ends: list[int]) -> None:
    batch = text(3, 9)
    found, cache = in_pieces(model, batch, ends, MASK)
    entries = model.blueprint.state()
    for row, real in enumerate(MASK == 1):
        logits, alone = model(batch[row : row + 1, real])
        close(found[row, real], logits[0])
        for state, other, layer in zip(cache.states, alone.states, entries, strict=True):
            for name in (name for name, entry in layer.items() if not entry.grows):
                close(state[name][row], other[name][0])


@EVERY
def test_states_have_the_announced_bytes_whatever_the_length(model: Model) -> None:
    for length in (1, 7):
        _, cache = model(text(2, length))
        assert cache.nbytes() == 2 * model.blueprint.cache_bytes(length, "float64")
    constant = model.blueprint.cache_bytes(0, "float64")
    assert constant > 0
    assert constant == sum(
        array[0].nbytes for state in cache.states for name, array in state.items() if name in ("conv_state", "recurrent_state")
    )


@EVERY
def test_rings_have_no_say(model: Model) -> None:
    whole, cache = model(text(2, 7))
    found, other = replace(model, ring=False)(text(2, 7))
    assert np.array_equal(found, whole)
    same_states(other, cache)


@EVERY
@pytest.mark.parametrize("length", [1, 6])
def test_the_cache_after_a_rollback_is_that_of_plain_decoding(model: Model, length: int) -> None:
    prompt, chunk = text(1, length), text(1, 4, seed=1)
    _, before = model(prompt)
    _, after = model(chunk, before)
    for count in range(1, 5):
        found = rollback.roll_back(model, before, after, chunk, np.arange(4)[None] < count)
        _, expected = in_pieces(model, np.concatenate([prompt, chunk[:, :count]], axis=1), range(1, length + count))
        assert found.attention_mask.tolist() == expected.attention_mask.tolist()
        same_states(found, expected)


@EVERY
def test_rows_of_which_different_numbers_stand(model: Model) -> None:
    prompt, chunk, more = text(3, 9), text(3, 4, seed=1), text(3, 5, seed=2)
    counts, mask = np.array([4, 0, 2]), np.where(np.arange(9) == 8, 1, MASK)
    _, before = model(prompt, attention_mask=mask)
    _, after = model(chunk, before)
    cache = rollback.roll_back(model, before, after, chunk, np.arange(4) < counts[:, None])
    logits, _ = model(more, cache)
    for row, count in enumerate(counts):
        alone = np.concatenate([prompt[row, mask[row] == 1], chunk[row, :count], more[row]])
        close(logits[row], model(alone[None])[0][0, -5:])


@EVERY
def test_a_state_that_keeps_what_fell_has_other_text(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = sometimes_right(model, 3, sensitive)
    plain = refimpl.generate(model, text(2, 5), 12, sampler=sensitive)
    monkeypatch.setattr(rollback, "keeps_every_token", lambda entries, ring: True)
    found = refimpl.generate(model, text(2, 5), 12, sampler=sensitive, speculative=drafter)
    assert found.tolist() != plain.tolist()


def drafters(model: Model) -> dict[str, Any]:
    own = {"its module": MultiTokenDrafter(model)} if model.blueprint.multi_token else {}
    return {
        "wrong now and then": sometimes_right(model, 3, sensitive),
        "itself": ModelDrafter(model),
        "another model": ModelDrafter(MODELS["kimi_linear"]),
        **own,
    }


@EVERY
@pytest.mark.parametrize("count", [1, 2, 5])
def test_speculative_decoding_is_plain_decoding(model: Model, count: int) -> None:
    for mask in (None, MASK[[0, 2]]):
        options = {"attention_mask": mask, "sampler": sensitive}
        plain = refimpl.generate(model, text(2, 9), 12, **options)
        for name, drafter in drafters(model).items():
            found = refimpl.generate(model, text(2, 9), 12, **options, speculative=drafter, draft_tokens=count)
            assert found.tolist() == plain.tolist(), name


def test_a_module_drafts_text_that_is_drawn() -> None:
    model = MODELS["qwen3_next"]
    found = refimpl.generate(model, text(2, 5), 9, sampler=Sampling(seed=3), speculative=MultiTokenDrafter(model))
    assert found.shape == (2, 14)


def test_a_module_reads_the_token_after_the_one_that_the_model_read() -> None:
    model, whole = MODELS["qwen3_next"], text(2, 11)
    hidden, _ = model.hidden(whole)
    logits, _, _ = model.multi_token(whole[:, 1:], hidden[:, :-1])
    cache, found = None, []
    for start, stop in pairwise([0, 3, 4, 10]):
        piece, _, cache = model.multi_token(whole[:, start + 1 : stop + 1], hidden[:, start:stop], cache)
        found.append(piece)
    close(np.concatenate(found, axis=1), logits)
    changed = whole.copy()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    other, _, _ = model.multi_token(changed[:, 1:], model.hidden(changed)[0][:, :-1])
    close(other[:, :4], logits[:, :4])
    assert np.abs(other[:, 4] - logits[:, 4]).max(axis=-1).min() > 1e-3


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
def test_states_stay_in_float32_where_the_model_rounds(name: str) -> None:
    values = {"qwen3_next": test_qwen3_next.config(), "kimi_linear": test_kimi_linear.config()}[name]
    model = refimpl.init(values, dtype="float32")
    _, cache = model.with_ops(Rounded(NumpyOps(), "bfloat16"))(text(2, 7))
    state = cache.states[0]["recurrent_state"]
    assert state.dtype == np.float32
    assert (state.view(np.uint32) & 0xFFFF).any()
