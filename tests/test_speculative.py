"""Speculative decoding gives the text of plain decoding: token by token where it is greedy, else in distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import refimpl
from golden.configs import CONFIGS
from refimpl import Cache, Model, ModelDrafter, MultiTokenDrafter, Sampling, drafters, rollback
from refimpl.blocks import MultiToken
from refimpl.drafters import Draft, FunctionDrafter
from refimpl.layers import sample_token
from refimpl.model import numpy_model
from refimpl.sampler import Chosen, greedy, one_hot
from refimpl.speculative import speculate
from refimpl.weights import RandomWeights
from tests.test_ring import MODELS as RINGS
from tests.test_ring import contiguous
from tests.tiny import qwen3, smollm3, tokens

VOCAB = 47
COUNTS = pytest.mark.parametrize("count", [1, 2, 3, 5])
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 1, 1]])


def with_modules(model: Model, count: int) -> Model:
    """The model with modules for multi-token prediction, made like its first layer and its last."""
    plan = model.blueprint
    norm, size = plan.final_norm, plan.hidden_size
    layers = (plan.layers[0], plan.layers[-1])
    modules = tuple(MultiToken(hidden_size=size, enorm=norm, hnorm=norm, layer=layers[k % 2], norm=norm) for k in range(count))
    plan = replace(plan, multi_token=modules)
    return numpy_model(plan, RandomWeights(plan, "float64", seed=4), "float64")


SMOLLM3 = refimpl.init(smollm3(), dtype="float64")
MODELS = {"smollm3": SMOLLM3, **RINGS}
SMALL = refimpl.init(qwen3(vocab_size=VOCAB, num_hidden_layers=1), seed=3, dtype="float64")
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def sensitive(logits: np.ndarray) -> np.ndarray:
    """A choice that the slightest change of any logit makes another; the largest logit of a small model hardly notices."""
    return np.floor(np.abs(logits).sum(axis=-1) * 1e6).astype(np.int64) % logits.shape[-1]


SAMPLERS = pytest.mark.parametrize("sampler", [greedy, sensitive])


def sometimes_right(model: Model, every: int, sampler: Any = greedy) -> Any:
    """A function that drafts the model's own continuation, but for one token in `every`."""

    def draft(row: np.ndarray, count: int) -> np.ndarray:
        right = refimpl.generate(model, row[None], count, sampler=sampler)[0, len(row) :]
        places = np.arange(len(row), len(row) + count)
        return np.where(places % every == 0, (right + 1) % model.blueprint.vocab_size, right)

    return draft


def never_right(model: Model) -> Any:
    return sometimes_right(model, 1)


def drafters_of(model: Model, sampler: Any) -> dict[str, Any]:
    """Every kind, and how often they are right: never, now and then, as a small model is, always."""
    return {
        "never right": sometimes_right(model, 1, sampler),
        "wrong now and then": sometimes_right(model, 3, sampler),
        "another model": ModelDrafter(SMALL),
        "itself": ModelDrafter(model),
    }


class TestGreedy:
    @EVERY
    @SAMPLERS
    @COUNTS
    @pytest.mark.parametrize("kind", ["never right", "wrong now and then", "another model", "itself"])
    def test_equals_plain_decoding(self, model: Model, count: int, kind: str, sampler: Any) -> None:
        drafter, prompt = drafters_of(model, sampler)[kind], tokens(3, 5)
        for mask in (None, MASK):
            options = {"attention_mask": mask, "sampler": sampler}
            plain = refimpl.generate(model, prompt, 14, **options)
            found = refimpl.generate(model, prompt, 14, **options, speculative=drafter, draft_tokens=count)
            assert found.tolist() == plain.tolist()
            assert found.dtype == plain.dtype

    @SAMPLERS
    @pytest.mark.parametrize("name", CONFIGS)
    def test_of_every_architecture(self, name: str, sampler: Any) -> None:
        model = refimpl.init(CONFIGS[name], seed=1, dtype="float64")
        prompt = tokens(2, 4, vocab_size=model.blueprint.vocab_size)
        options = {"attention_mask": np.array([[0, 1, 1, 1], [1, 1, 1, 1]]), "sampler": sampler}
        plain = refimpl.generate(model, prompt, 11, **options)
        for count in range(1, 6):
            drafter = sometimes_right(model, 1 + count % 3, sampler)
            found = refimpl.generate(model, prompt, 11, **options, speculative=drafter, draft_tokens=count)
            assert found.tolist() == plain.tolist(), count

    @EVERY
    @COUNTS
    def test_rows_that_end_repeat_the_end(self, model: Model, count: int) -> None:
        prompt = tokens(4, 4, seed=3)
        free = refimpl.generate(model, prompt, 9)[:, 4:]
        for end in sorted(set(free[:, 2:5].ravel().tolist())):
            plain = refimpl.generate(model, prompt, 9, eos_token_id=end)
            for drafter in (sometimes_right(model, 2), ModelDrafter(model)):
                found = refimpl.generate(model, prompt, 9, eos_token_id=end, speculative=drafter, draft_tokens=count)
                assert found.tolist() == plain.tolist()

    @pytest.mark.parametrize("name", RINGS)
    def test_far_past_the_wrap_of_a_ring(self, name: str) -> None:
        model = RINGS[name]
        drafter = sometimes_right(model, 4, sensitive)
        plain = refimpl.generate(model, tokens(2, 3), 60, sampler=sensitive)
        found = refimpl.generate(model, tokens(2, 3), 60, sampler=sensitive, speculative=drafter, draft_tokens=5)
        assert found.tolist() == plain.tolist()

    def test_no_position_beyond_those_of_plain_decoding_is_asked_for(self) -> None:
        model = refimpl.init(CONFIGS["gpt2"], seed=1, dtype="float64")
        last = model.blueprint.config["n_positions"]
        new = last - 3 + 1  # the last token is not read again
        prompt = tokens(2, 3, vocab_size=model.blueprint.vocab_size)
        plain = refimpl.generate(model, prompt, new)
        for drafter in (sometimes_right(model, 7), ModelDrafter(model)):
            found = refimpl.generate(model, prompt, new, speculative=drafter, draft_tokens=4)
            assert found.tolist() == plain.tolist()

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_few_new_tokens(self, count: int) -> None:
        found = refimpl.generate(SMOLLM3, tokens(2, 3), count, speculative=SMALL)
        assert found.tolist() == refimpl.generate(SMOLLM3, tokens(2, 3), count).tolist()

    def test_right_drafts_save_calls(self) -> None:
        found = speculate(SMOLLM3, tokens(2, 4), 21, ModelDrafter(SMOLLM3), Chosen(greedy), draft_tokens=4)
        assert (found.calls, found.drafted, found.accepted) == (1 + 4, 2 * 4 * 4, 2 * 4 * 4)

    def test_wrong_drafts_cost_no_more_calls_than_plain_decoding(self) -> None:
        drafter = FunctionDrafter(never_right(SMOLLM3), VOCAB)
        found = speculate(SMOLLM3, tokens(2, 4), 9, drafter, Chosen(greedy), draft_tokens=4)
        assert (found.calls, found.accepted) == (9, 0)

    def test_any_other_sampler_chooses_what_it_chooses_without_drafts(self) -> None:
        def second_best(logits: np.ndarray) -> np.ndarray:
            return np.argsort(logits, axis=-1)[:, -2]

        plain = refimpl.generate(SMOLLM3, tokens(2, 4), 9, sampler=second_best)
        for drafter in (ModelDrafter(SMOLLM3), never_right(SMOLLM3)):
            found = refimpl.generate(SMOLLM3, tokens(2, 4), 9, sampler=second_best, speculative=drafter)
            assert found.tolist() == plain.tolist()

    def test_temperature_zero_is_greedy(self) -> None:
        cold = Sampling(temperature=0.0)
        plain = refimpl.generate(SMOLLM3, tokens(2, 4), 9)
        assert refimpl.generate(SMOLLM3, tokens(2, 4), 9, sampler=cold).tolist() == plain.tolist()
        found = refimpl.generate(SMOLLM3, tokens(2, 4), 9, sampler=cold, speculative=ModelDrafter(SMALL))
        assert found.tolist() == plain.tolist()


def rolled_back(model: Model, prompt: np.ndarray, chunk: np.ndarray, stands: np.ndarray, mask: Any = None) -> Cache:
    _, before = model(prompt, attention_mask=mask)
    _, after = model(chunk, before)
    return rollback.roll_back(model, before, after, chunk, stands)


class TestRollback:
    @EVERY
    @pytest.mark.parametrize("length", [1, 4, 30])
    def test_the_cache_is_that_of_plain_decoding(self, model: Model, length: int) -> None:
        prompt, chunk = tokens(1, length), tokens(1, 5, seed=1)
        for count in range(1, 6):
            found = rolled_back(model, prompt, chunk, np.arange(5)[None] < count)
            expected = None
            for column in np.concatenate([prompt, chunk[:, :count]], axis=1).T:
                _, expected = model(column[:, None], expected)
            assert found.attention_mask.tolist() == expected.attention_mask.tolist()
            for state, other in zip(found.states, expected.states, strict=True):
                assert state.keys() == other.keys()
                for name, array in state.items():
                    np.testing.assert_allclose(array, other[name], rtol=1e-12, atol=1e-13)

    @EVERY
    def test_rows_of_which_different_numbers_stand(self, model: Model) -> None:
        prompt, chunk, more = tokens(3, 5), tokens(3, 4, seed=1), tokens(3, 6, seed=2)
        counts = np.array([4, 0, 2])
        cache = rolled_back(model, prompt, chunk, np.arange(4) < counts[:, None], MASK)
        logits, _ = model(more, cache)
        for row, count in enumerate(counts):
            alone = np.concatenate([prompt[row, MASK[row] == 1], chunk[row, :count], more[row]])
            expected = contiguous(model)(alone[None])[0][0, -6:]
            np.testing.assert_allclose(logits[row], expected, rtol=1e-10, atol=1e-12)

    @EVERY
    def test_the_cache_before_is_untouched(self, model: Model) -> None:
        _, before = model(tokens(2, 6))
        copies = [{name: array.copy() for name, array in state.items()} for state in before.states]
        _, after = model(tokens(2, 3, seed=1), before)
        rollback.roll_back(model, before, after, tokens(2, 3, seed=1), np.array([[1, 0, 0], [1, 1, 0]], bool))
        for state, copy in zip(before.states, copies, strict=True):
            for name, array in copy.items():
                np.testing.assert_array_equal(state[name], array)

    @EVERY
    def test_padding_takes_no_room(self, model: Model) -> None:
        cache = rolled_back(model, tokens(3, 5), tokens(3, 4, seed=1), np.arange(4) < [[1], [1], [3]], MASK)
        assert cache.attention_mask.sum(axis=1).tolist() == [4, 6, 6]
        assert len(cache) == 6
        assert cache.nbytes() == 3 * model.blueprint.cache_bytes(6, "float64")

    @pytest.mark.parametrize("name", RINGS)
    def test_a_ring_that_keeps_what_fell_has_other_text(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """ring-cache-rollback-noop."""
        model, prompt = RINGS[name], tokens(2, 9)
        drafter = sometimes_right(model, 3, sensitive)
        plain = refimpl.generate(model, prompt, 30, sampler=sensitive)
        monkeypatch.setattr(rollback, "keeps_every_token", lambda entries, ring: True)
        found = refimpl.generate(model, prompt, 30, sampler=sensitive, speculative=drafter, draft_tokens=4)
        assert found.tolist() != plain.tolist()

    def test_only_states_with_an_entry_a_token_need_no_second_call(self) -> None:
        kept = rollback.keeps_every_token
        assert kept(SMOLLM3.blueprint.state(), ring=True)
        windows = RINGS["windows"].blueprint.state()
        assert kept(windows, ring=False)
        assert not kept(windows, ring=True)
        recurrent = {name: replace(entry, grows=False) for name, entry in windows[1].items()}
        assert not kept([recurrent], ring=False)


class Recording:
    """A drafter that notes what it was asked and what it answered."""

    def __init__(self, drafter: Any) -> None:
        self.drafter, self.asked = drafter, []

    def propose(self, news: Any, memory: Any, count: int, sampling: Sampling) -> tuple[Draft, Any]:
        rows, inner = ([np.zeros(0, int)] * len(news.tokens), None) if memory is None else memory
        rows = [np.concatenate([row, new[real == 1]]) for row, new, real in zip(rows, news.tokens, news.mask, strict=True)]
        draft, inner = self.drafter.propose(news, inner, count, sampling)
        self.asked.append((rows, draft))
        return draft, (rows, inner)


def drafted_anew(model: Model, row: np.ndarray, count: int) -> list[int]:
    """What the modules of a model draft after a row, without any cache."""
    modules, found = len(model.blueprint.multi_token), []
    output, _ = model.hidden(row[None, :-1])
    text = row[None, 1:]
    for step in range(count):
        if step < modules:
            read, fed = output, text
        else:  # the last module reads what it put out itself
            read, fed = np.concatenate([read, output[:, -1:]], axis=1), np.concatenate([fed, [found[-1:]]], axis=1)
        logits, output, _ = model.multi_token(fed, read, module=min(step, modules - 1))
        found.append(int(np.argmax(logits[0, -1])))
        text = np.concatenate([text[:, 1:], [found[-1:]]], axis=1)
    return found


class TestDrafters:
    def test_a_model_drafts_its_own_greedy_text(self) -> None:
        recording = Recording(ModelDrafter(SMALL))
        refimpl.generate(SMOLLM3, tokens(3, 5), 12, attention_mask=MASK, speculative=recording, draft_tokens=3)
        assert len(recording.asked) > 3
        for rows, draft in recording.asked[:3]:  # while all rows go on
            for row, proposed in zip(rows, draft.tokens, strict=True):
                assert proposed.tolist() == refimpl.generate(SMALL, row[None], 3)[0, len(row) :].tolist()

    def test_drafts_are_drawn_from_the_distributions_they_come_with(self) -> None:
        drawing = drafters.Drawing(Sampling(temperature=1.3, top_k=5, seed=2))
        logits = np.random.default_rng(0).standard_normal((4000, 1, 7))
        drawing.next(logits)
        draft = drawing.draft()
        chances = np.take_along_axis(draft.distributions, draft.tokens[..., None], axis=-1)
        assert (chances > 0).all()
        assert (np.count_nonzero(draft.distributions, axis=-1) == 5).all()
        uniforms = Sampling(seed=2).uniforms(4000, 1)
        assert draft.tokens.tolist() == sample_token(draft.distributions, uniforms).tolist()

    @pytest.mark.parametrize("kind", ["smollm3", "windows", "chunks"])
    @pytest.mark.parametrize("modules", [1, 2, 3])
    @COUNTS
    def test_modules_draft_what_they_draft_without_caches(self, kind: str, modules: int, count: int) -> None:
        model = with_modules(MODELS[kind], modules)
        prompt = tokens(3, 5)
        plain = refimpl.generate(model, prompt, 16, attention_mask=MASK)
        recording = Recording(MultiTokenDrafter(model))
        found = refimpl.generate(model, prompt, 16, attention_mask=MASK, speculative=recording, draft_tokens=count)
        assert found.tolist() == plain.tolist()
        assert len(recording.asked) > 2
        for rows, draft in recording.asked:
            for row, proposed in zip(rows, draft.tokens, strict=True):
                if len(row) < 3 + 16:  # the shortest rows, once ended, are asked for nothing
                    assert proposed.tolist() == drafted_anew(model, row, draft.tokens.shape[1])

    @pytest.mark.parametrize("modules", [1, 3])
    def test_modules_draft_after_one_token(self, modules: int) -> None:
        model = with_modules(SMOLLM3, modules)
        plain = refimpl.generate(model, tokens(2, 1), 9)
        found = refimpl.generate(model, tokens(2, 1), 9, speculative=MultiTokenDrafter(model), draft_tokens=4)
        assert found.tolist() == plain.tolist()

    def test_a_model_without_modules_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^MultiTokenDrafter: the model has no modules for multi-token prediction"):
            MultiTokenDrafter(SMOLLM3)


class TestDrawn:
    def test_the_same_seed_gives_the_same_text(self) -> None:
        def text(seed: int) -> list:
            sampler = Sampling(temperature=1.5, seed=seed)
            return refimpl.generate(SMOLLM3, tokens(2, 4), 12, sampler=sampler, speculative=ModelDrafter(SMALL)).tolist()

        assert text(1) == text(1)
        assert text(1) != text(2)

    def test_a_function_that_draws_keeps_its_distribution(self) -> None:
        """Its choice from the target's logits is what is kept, wherever the draft came from."""
        chosen: list[int] = []

        def drawing(logits: np.ndarray) -> np.ndarray:
            token = np.random.default_rng(len(chosen)).integers(0, VOCAB, len(logits))
            chosen.append(int(token[0]))
            return token

        found = refimpl.generate(SMOLLM3, tokens(1, 4), 6, sampler=drawing, speculative=never_right(SMOLLM3), draft_tokens=1)
        # Of each pair of choices the first replaces the draft, and the one behind the draft goes with it.
        assert found[0, 4:].tolist() == [chosen[index] for index in (0, 1, 3, 5, 7, 9)]


class TestBadInput:
    @pytest.mark.parametrize("count", [0, -1, 2.0, None])
    def test_a_wrong_number_of_drafts(self, count: Any) -> None:
        with pytest.raises(ValueError, match=f"^generate: draft_tokens is {count!r} but needs a positive integer$"):
            refimpl.generate(SMOLLM3, tokens(1, 3), 2, speculative=never_right(SMOLLM3), draft_tokens=count)

    def test_what_is_no_drafter(self) -> None:
        with pytest.raises(
            ValueError, match=r"^generate: speculative is a list but needs a Drafter, a Model or a function from"
        ):
            refimpl.generate(SMOLLM3, tokens(1, 3), 2, speculative=[1, 2])

    def test_another_vocabulary(self) -> None:
        other = ModelDrafter(refimpl.init(qwen3(vocab_size=48), dtype="float64"))
        with pytest.raises(ValueError, match=r"^generate: speculative drafts 48 different tokens but the model has 47$"):
            refimpl.generate(SMOLLM3, tokens(1, 3), 2, speculative=other)

    @pytest.mark.parametrize("answer", [[1], [[1, 2]], [0.5, 0.5], None])
    def test_a_function_that_gives_something_else(self, answer: Any) -> None:
        with pytest.raises(ValueError, match=r"^generate: speculative returned shape .* but must give integers \(2,\)$"):
            refimpl.generate(SMOLLM3, tokens(1, 3), 9, speculative=lambda row, count: answer, draft_tokens=2)

    def test_a_function_that_leaves_the_vocabulary(self) -> None:
        with pytest.raises(
            ValueError, match=r"^generate: speculative returned tokens from 3 to 47 but they must lie in 0 .. 46$"
        ):
            refimpl.generate(SMOLLM3, tokens(1, 3), 9, speculative=lambda row, count: [3, 47], draft_tokens=2)

    def test_a_drafter_whose_distributions_do_not_fit(self) -> None:
        class Wrong:
            def propose(self, news: Any, memory: Any, count: int, sampling: Sampling) -> tuple[Draft, Any]:
                drafts = np.zeros((len(news.tokens), count), int)
                return Draft(tokens=drafts, distributions=one_hot(drafts, 48)), None

        sentence = (
            r"^generate: the drafter gave tokens \(1, 2\) and distributions \(1, 2, 48\) but needs \(1, 2\) and \(1, 2, 47\)$"
        )
        with pytest.raises(ValueError, match=sentence):
            refimpl.generate(SMOLLM3, tokens(1, 3), 9, speculative=Wrong(), draft_tokens=2)

    @pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": 0}])
    def test_wrong_options_of_a_sampler(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match=r"^token_distribution: "):
            Sampling(**wrong)
