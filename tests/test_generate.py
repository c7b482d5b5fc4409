"""Greedy decoding: the arg-max of a full forward pass, whatever the cache does."""

from __future__ import annotations

import numpy as np
import pytest

import refimpl
from refimpl.generate import generate, greedy
from tests.tiny import qwen3, smollm3, tokens

MODELS = {
    "qwen3": refimpl.init(
        qwen3(vocab_size=47, use_sliding_window=True, sliding_window=3, max_window_layers=1), dtype="float64"
    ),
    "smollm3": refimpl.init(smollm3(), dtype="float64"),
}
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
MODEL = MODELS["smollm3"]


def slowly(model: refimpl.Model, row: np.ndarray, count: int) -> list[int]:
    """A row continued by the arg-max of the whole sequence each time."""
    sequence = row.tolist()
    for _ in range(count):
        sequence.append(int(np.argmax(model([sequence])[0][0, -1])))
    return sequence


@EVERY
class TestGreedy:
    def test_equals_decoding_without_a_cache(self, model: refimpl.Model) -> None:
        batch = tokens(3, 4)
        assert generate(model, batch, 6).tolist() == [slowly(model, row, 6) for row in batch]

    def test_a_left_padded_row_continues_as_the_row_alone(self, model: refimpl.Model) -> None:
        batch, mask = tokens(2, 5), np.array([[0, 0, 1, 1, 1], [1] * 5])
        found = generate(model, batch, 5, attention_mask=mask)
        assert found[0, 2:].tolist() == slowly(model, batch[0, 2:], 5)
        assert found[1].tolist() == slowly(model, batch[1], 5)
        assert found[0, :2].tolist() == batch[0, :2].tolist()


class TestEnd:
    def test_no_new_tokens_return_the_prompt(self) -> None:
        assert generate(MODEL, tokens(2, 3), 0).tolist() == tokens(2, 3).tolist()

    def test_a_row_that_ended_repeats_the_end_and_the_others_go_on(self) -> None:
        batch = tokens(4, 4, seed=3)
        free = generate(MODEL, batch, 8)[:, 4:]
        end = int(free[0, 2])
        found = generate(MODEL, batch, 8, eos_token_id=end)[:, 4:]
        lengths = []
        for row, expected in zip(found.tolist(), free.tolist(), strict=True):
            stop = expected.index(end) + 1 if end in expected else 8
            assert row[:stop] == expected[: min(stop, len(row))]
            assert set(row[stop:]) <= {end}
            lengths.append(stop)
        assert found.shape[1] == max(lengths)
        assert min(lengths) < max(lengths), "the rows must end at different times"

    def test_stops_when_every_row_has_ended(self) -> None:
        batch = tokens(1, 4)
        end = int(generate(MODEL, batch, 1)[0, -1])
        assert generate(MODEL, batch, 50, eos_token_id=end).shape == (1, 5)

    def test_an_end_in_the_prompt_means_nothing(self) -> None:
        batch = tokens(1, 4)
        first = int(generate(MODEL, batch, 1)[0, -1])
        prompt_token = int(batch[0, 0])
        assert first != prompt_token
        assert generate(MODEL, batch, 2, eos_token_id=prompt_token).shape[1] > 5


class TestSampler:
    def test_sees_the_last_logits_of_each_row(self) -> None:
        seen = []

        def second_best(logits: np.ndarray) -> np.ndarray:
            seen.append(logits)
            return np.argsort(logits, axis=-1)[:, -2]

        batch = tokens(2, 3)
        found = generate(MODEL, batch, 1, sampler=second_best)
        expected = MODEL(batch)[0][:, -1]
        np.testing.assert_array_equal(seen[0], expected)
        assert found[:, -1].tolist() == [int(np.argsort(row)[-2]) for row in expected]

    def test_greedy_takes_the_first_of_equals(self) -> None:
        assert greedy(np.array([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])).tolist() == [1, 0]

    @pytest.mark.parametrize("answer", [[0, 1], np.array([0.5]), np.array([[1]]), np.array([1, 2, 3]), None])
    def test_an_answer_that_is_not_one_token_a_row_is_one_sentence(self, answer) -> None:
        with pytest.raises(ValueError, match="sampler"):
            generate(MODEL, tokens(1, 3), 1, sampler=lambda logits: answer)


class TestFormats:
    @pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8, np.uint64])
    @pytest.mark.parametrize("count", [0, 2])
    def test_the_result_is_of_integers(self, kind: type, count: int) -> None:
        found = generate(MODEL, tokens(1, 3).astype(kind), count)
        assert found.dtype.kind in "iu"
        assert found.tolist() == generate(MODEL, tokens(1, 3), count).tolist()

    def test_a_list_of_lists_is_a_batch(self) -> None:
        assert generate(MODEL, tokens(2, 3).tolist(), 2).tolist() == generate(MODEL, tokens(2, 3), 2).tolist()


class TestBadInput:
    @pytest.mark.parametrize("count", [-1, 1.5, "3", None])
    def test_a_wrong_number_of_tokens(self, count) -> None:
        with pytest.raises(ValueError, match=f"^generate: max_new_tokens is {count!r} but needs a number, 0 or more$"):
            generate(MODEL, tokens(1, 3), count)

    @pytest.mark.parametrize("mask", [[[1, 1, 0]], [[0, 1, 0]]])
    def test_padding_on_the_right(self, mask: list) -> None:
        with pytest.raises(ValueError, match=r"^generate: attention_mask has padding on the right.*; pad on the left$"):
            generate(MODEL, tokens(1, 3), 1, attention_mask=mask)

    @pytest.mark.parametrize("mask", [[[1, 1]], [1, 1, 1], [[1, 1, 2]], [[]]])
    def test_a_mask_that_does_not_fit(self, mask: list) -> None:
        with pytest.raises(ValueError, match=r"^attention_mask has "):
            generate(MODEL, tokens(1, 3), 1, attention_mask=mask)

    @pytest.mark.parametrize("count", [0, 1])
    @pytest.mark.parametrize("wrong", [[1, 2], 3, [[1.0]], [[99]], "abc", [[]]])
    def test_a_prompt_that_is_no_batch_of_tokens(self, count: int, wrong: object) -> None:
        with pytest.raises(ValueError, match=r"^tokens "):
            generate(MODEL, wrong, count)
