"""A cache of rings gives what a cache of all tokens gives, however the tokens arrive, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import refimpl
from refimpl import Cache, Model
from refimpl.blocks import LogFloor
from refimpl.model import numpy_model
from refimpl.weights import RandomWeights
from tests.tiny import qwen3, tokens

VOCAB = 47


def model_of(layers: Sequence[dict[str, Any]], **common: Any) -> Model:
    """A small Qwen3 whose layers have these switches of attention."""
    plan = refimpl.blueprint(qwen3(vocab_size=VOCAB, num_hidden_layers=len(layers), hidden_size=12, intermediate_size=8))
    changed = [
        replace(layer, mixer=replace(layer.mixer, **switches, **common))
        for layer, switches in zip(plan.layers, layers, strict=True)
    ]
    plan = replace(plan, layers=tuple(changed))
    return numpy_model(plan, RandomWeights(plan, "float64", seed=5), "float64")


MODELS = {
    "windows": model_of([{"window": 3}, {}, {"window": 1}]),
    "chunks": model_of(
        [{"chunk": 4}, {"window": 5, "chunk": 3}], sinks=True, softcap=2.0, temperature=LogFloor(scale=0.5, floor=3)
    ),
    "wide": model_of([{"window": 9}, {"chunk": 40}]),
}
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def contiguous(model: Model) -> Model:
    return replace(model, ring=False)


def in_pieces(model: Model, whole: np.ndarray, ends: Sequence[int], mask: np.ndarray | None = None) -> tuple[np.ndarray, Cache]:
    """Logits and cache of tokens that come in pieces which end at `ends` and at the last one."""
    cache, found = None, []
    for start, stop in pairwise([0, *ends, whole.shape[1]]):
        logits, cache = model(whole[:, start:stop], cache, attention_mask=None if mask is None else mask[:, :stop])
        found.append(logits)
    assert cache is not None
    return np.concatenate(found, axis=1), cache


@EVERY
class TestPieces:
    def test_all_at_once(self, model: Model) -> None:
        whole = tokens(3, 11)
        np.testing.assert_array_equal(model(whole)[0], contiguous(model)(whole)[0])

    def test_every_split_of_seven_tokens(self, model: Model) -> None:
        whole = tokens(1, 7)
        expected, _ = contiguous(model)(whole)
        for bits in range(2**6):
            ends = [end for end in range(1, 7) if bits >> (end - 1) & 1]
            close(in_pieces(model, whole, ends)[0], expected)

    @given(ends=st.sets(st.integers(1, 19), max_size=6), seed=st.integers(0, 9))
    @example(ends={9}, seed=0)  # pieces longer than every window, the second over a ring that is full
    @example(ends={1, 18}, seed=0)
    @settings(max_examples=20)
    def test_any_split_of_twenty_tokens(self, model: Model, ends: set[int], seed: int) -> None:
        whole = tokens(2, 20, seed=seed)
        logits, cache = in_pieces(model, whole, sorted(ends))
        close(logits, contiguous(model)(whole)[0])
        assert len(cache) == 20

    def test_the_ring_is_the_same_whatever_the_pieces(self, model: Model) -> None:
        whole = tokens(2, 13)
        _, expected = model(whole)
        for ends in ([1], [4, 5], [12], list(range(1, 13))):
            for state, other in zip(in_pieces(model, whole, ends)[1].states, expected.states, strict=True):
                close(state["key"], other["key"])
                close(state["value"], other["value"])

    def test_decoding_far_past_the_wrap(self, model: Model) -> None:
        whole = tokens(2, 50)
        close(in_pieces(model, whole, range(7, 50))[0], contiguous(model)(whole)[0])

    def test_greedy_decoding_gives_the_same_tokens(self, model: Model) -> None:
        prompt, mask = tokens(2, 5), np.array([[0, 0, 1, 1, 1], [1] * 5])
        found = refimpl.generate(model, prompt, 20, attention_mask=mask)
        np.testing.assert_array_equal(found, refimpl.generate(contiguous(model), prompt, 20, attention_mask=mask))

    def test_a_cache_can_be_continued_twice(self, model: Model) -> None:
        whole = tokens(2, 9)
        _, cache = model(whole)
        before = [{name: array.copy() for name, array in state.items()} for state in cache.states]
        for seed, length in ((1, 6), (2, 1)):
            more = tokens(2, length, seed=seed)
            close(model(more, cache)[0], contiguous(model)(np.concatenate([whole, more], axis=1))[0][:, 9:])
        for state, copies in zip(cache.states, before, strict=True):
            for name, array in copies.items():
                np.testing.assert_array_equal(state[name], array)

    def test_float32_keeps_its_format(self, model: Model) -> None:
        narrow = numpy_model(model.blueprint, RandomWeights(model.blueprint, "float32", seed=5), "float32")
        whole = tokens(1, 12)
        logits, cache = in_pieces(narrow, whole, [3, 9])
        assert all(array.dtype == np.float32 for state in cache.states for array in state.values())
        expected, _ = model(whole)
        assert np.abs(logits - expected).max() < 2e-5 * np.abs(expected).max()


@EVERY
class TestPadding:
    @given(
        mask=st.lists(st.lists(st.integers(0, 1), min_size=14, max_size=14), min_size=1, max_size=3),
        ends=st.sets(st.integers(1, 13), max_size=5),
    )
    @example(mask=[[0] * 9 + [1] * 5, [1] * 14], ends={3, 8})  # a first piece of padding alone
    @example(mask=[[1] * 5 + [0] * 6 + [1] * 3, [0] * 14], ends={5, 11, 12})  # a whole piece of it in the middle
    @example(mask=[[1, 0] * 7], ends={4, 9})
    @settings(max_examples=25)
    def test_padding_anywhere_and_cuts_anywhere(self, model: Model, mask: list[list[int]], ends: set[int]) -> None:
        padding, whole = np.array(mask), tokens(len(mask), 14)
        real = padding == 1
        logits, _ = in_pieces(model, whole, sorted(ends), padding)
        assert np.isfinite(logits).all()
        close(logits[real], contiguous(model)(whole, attention_mask=padding)[0][real])

    def test_rows_of_unequal_length_decode_past_the_wrap(self, model: Model) -> None:
        lengths, total = (2, 9, 5), 9
        mask = np.array([[0] * (total - length) + [1] * length for length in lengths])
        prompt, more = tokens(3, total), tokens(3, 30, seed=1)
        whole = np.concatenate([prompt, more], axis=1)
        _, cache = model(prompt, attention_mask=mask)
        found = []
        for t in range(30):
            logits, cache = model(more[:, t : t + 1], cache)
            found.append(logits)
        for row, length, logits in zip(whole, lengths, np.concatenate(found, axis=1), strict=True):
            close(logits, contiguous(model)(row[None, total - length :])[0][0, length:])

    def test_padding_between_decoded_tokens(self, model: Model) -> None:
        mask = np.array([[1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1], [1] * 12])
        whole = tokens(2, 12)
        logits, _ = in_pieces(model, whole, range(1, 12), mask)
        real = mask == 1
        for row, ones, found in zip(whole, real, logits, strict=True):
            close(found[ones], contiguous(model)(row[ones][None])[0][0])

    def test_positions_given_by_hand_do_not_move_the_slots(self, model: Model) -> None:
        whole, positions = tokens(1, 10), 3 * np.arange(10)[None] + 7
        expected, _ = contiguous(model)(whole, positions=positions)
        first, cache = model(whole[:, :6], positions=positions[:, :6])
        second, _ = model(whole[:, 6:], cache, positions=positions[:, 6:])
        close(np.concatenate([first, second], axis=1), expected)


class TestMemory:
    def test_a_ring_has_as_many_slots_as_tokens_up_to_the_window(self) -> None:
        cache = None
        for length in range(1, 9):
            _, cache = MODELS["windows"](tokens(1, 1), cache)
            slots = [state["key"].shape[1] for state in cache.states]
            assert slots == [min(length, 3), length, 1]

    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("length", [1, 3, 5, 30])
    def test_bytes_are_those_of_the_blueprint(self, name: str, length: int) -> None:
        _, cache = MODELS[name](tokens(2, length))
        assert cache.nbytes() == 2 * MODELS[name].blueprint.cache_bytes(length, "float64")

    def test_only_layers_that_see_all_grow(self) -> None:
        model, entry = MODELS["windows"], 2 * 2 * 8 * 8  # key and value of two heads of eight numbers of eight bytes
        short, long = (model(tokens(1, length))[1].nbytes() for length in (10, 100))
        assert long - short == 90 * entry
        short, long = (contiguous(model)(tokens(1, length))[1].nbytes() for length in (10, 100))
        assert long - short == 3 * 90 * entry

    def test_a_model_of_windows_alone_stops_growing(self) -> None:
        cache, sizes = None, set()
        for t in range(40):
            _, cache = MODELS["chunks"](tokens(1, 1, seed=t), cache)
            sizes.add(cache.nbytes())
        assert len(sizes) == 4  # the longest span is 4
        assert sum(array.base.nbytes if array.base is not None else 0 for s in cache.states for array in s.values()) == 0

    def test_padding_takes_slots_only_until_the_ring_is_full(self) -> None:
        _, cache = MODELS["windows"](tokens(1, 6), attention_mask=[[0, 0, 0, 0, 1, 1]])
        assert [state["key"].shape[1] for state in cache.states] == [3, 6, 1]
        assert not cache.states[0]["key"][0, 2].any()


class TestMixUps:
    def test_rings_handed_to_a_model_of_all_tokens(self) -> None:
        _, cache = MODELS["windows"](tokens(1, 5))
        message = "^the cache holds rings of windowed layers but the model keeps all tokens$"
        with pytest.raises(ValueError, match=message):
            contiguous(MODELS["windows"])(tokens(1, 1), cache)

    def test_all_tokens_handed_to_a_model_of_rings(self) -> None:
        _, cache = contiguous(MODELS["windows"])(tokens(1, 5))
        message = "^the cache holds all tokens of windowed layers but the model keeps rings$"
        with pytest.raises(ValueError, match=message):
            MODELS["windows"](tokens(1, 1), cache)

    @pytest.mark.parametrize("length", [5, 20])
    def test_rings_of_another_window_are_one_sentence(self, length: int) -> None:
        _, cache = model_of([{"window": 4}, {}, {"window": 1}])(tokens(1, length))
        with pytest.raises(
            ValueError, match=r"^ring_append: ring has shape \(1, 4, 2, 8\) but \d+ earlier tokens need \(1, 3, 2, 8\)$"
        ):
            MODELS["windows"](tokens(1, 1), cache)
