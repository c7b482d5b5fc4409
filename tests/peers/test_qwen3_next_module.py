"""Qwen3-Next's module `mtp` agrees with one made of transformers' parts, and drafts greedy text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import refimpl
from refimpl import ModelDrafter, MultiTokenDrafter
from refimpl.layers import multi_token_input
from refimpl.ops import Replaced

from .comparison import SAME_MEANING, Array, assert_agree, relative_error
from .conftest import PairOf

pytest.importorskip("torch")
pytest.importorskip("transformers")

# Their last layer has full attention and experts, as the module has.
NAMES = ("untied", "tied", "attention_bias", "half_of_a_head", "not_renormalised", "three_taps")
LENGTH = 75
MASK = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])


@dataclass(frozen=True)
class Module:
    """A checkpoint with the tensors of the module and its two readings in float64."""

    directory: Path
    model: refimpl.Model
    peer: Any
    tokens: Array


ModuleOf = Callable[[str], Module]


def with_module(tensors: dict[str, Array], *, last: int) -> dict[str, Array]:
    """Those of a model, and those of its module under their published names: a layer like the last, and what is before it."""
    rng, size = np.random.default_rng(17), tensors["model.norm.weight"].size
    layer = f"model.layers.{last}."
    shapes = {name.replace(layer, "mtp.layers.0."): array.shape for name, array in tensors.items() if name.startswith(layer)}
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        shapes[f"mtp.{name}.weight"] = (size,)
    shapes["mtp.fc.weight"] = (size, 2 * size)
    module = {
        name: rng.uniform(-0.6, 0.9, shape) if len(shape) == 1 else rng.normal(0, shape[-1] ** -0.5, shape)
        for name, shape in shapes.items()
    }
    return {**tensors, **{name: array.astype(np.float32) for name, array in module.items()}}


@pytest.fixture(scope="module")
def module_of(pair_of: PairOf, tmp_path_factory: pytest.TempPathFactory) -> ModuleOf:
    from .checkpoints import copy_with
    from .multi_token import load_qwen3_next_peer

    @cache
    def read(name: str) -> Module:
        pair = pair_of(f"qwen3_next-{name}")
        directory = copy_with(pair.directory, tmp_path_factory.mktemp(name) / "module", lambda config: config)
        file = directory / "model.safetensors"
        save_file(with_module(load_file(file), last=3), file, metadata={"format": "pt"})
        model = refimpl.load(directory, dtype="float64")
        return Module(directory, model, load_qwen3_next_peer(directory), pair.tokens(2, LENGTH, seed=6))

    return read


def expected(both: Module) -> tuple[Array, Array]:
    """The peer's logits and output for all pairs at once."""
    hidden = both.peer.hidden(both.tokens)
    found: tuple[Array, Array] = both.peer(0, both.tokens[:, 1:], hidden[:, :-1], both.peer.new_cache(), first=1)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_all_pairs_at_once(name: str, module_of: ModuleOf) -> None:
    both = module_of(name)
    hidden, _ = both.model.hidden(both.tokens)
    assert_agree(hidden, both.peer.hidden(both.tokens))
    logits, output, _ = both.model.multi_token(both.tokens[:, 1:], hidden[:, :-1])
    for found, other in zip((logits, output), expected(both), strict=True):
        assert_agree(found, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [(5, 61, 1, 4), (1,) * 23], ids=["pieces", "decode"])
def test_in_pieces(name: str, lengths: tuple[int, ...], module_of: ModuleOf) -> None:
    """The model goes along in the same pieces."""
    both = module_of(name)
    tokens, start, end = both.tokens, 0, sum(lengths)
    theirs, states, pairs = both.peer.new_cache(), None, None
    whole = both.peer.hidden(tokens[:, :end])
    for length in lengths:
        piece, shifted = slice(start, start + length), slice(start + 1, start + length + 1)
        hidden, states = both.model.hidden(tokens[:, piece], states)
        logits, output, pairs = both.model.multi_token(tokens[:, shifted], hidden, pairs)
        other = both.peer(0, tokens[:, shifted], whole[:, piece], theirs, first=start + 1)
        assert_agree(logits, other[0])
        assert_agree(output, other[1])
        start += length


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_row_is_the_row_alone(name: str, module_of: ModuleOf) -> None:
    both = module_of(name)
    tokens, mask = both.tokens, np.ones_like(both.tokens)
    mask[0, :9] = mask[1, -4:] = 0
    hidden, _ = both.model.hidden(tokens, attention_mask=mask)
    pairs = mask[:, 1:] * mask[:, :-1]
    logits, _, _ = both.model.multi_token(tokens[:, 1:], hidden[:, :-1], attention_mask=pairs)
    for row, real in enumerate(mask == 1):
        alone = tokens[row : row + 1, real]
        other, _ = both.peer(0, alone[:, 1:], both.peer.hidden(alone)[:, :-1], both.peer.new_cache(), first=1)
        assert_agree(logits[row : row + 1, pairs[row] == 1], other)


def test_the_module_reads_its_own_output_again(module_of: ModuleOf) -> None:
    both = module_of("untied")
    hidden, _ = both.model.hidden(both.tokens)
    logits, output, pairs = both.model.multi_token(both.tokens[:, 1:], hidden[:, :-1])
    drafted = logits[:, -1:].argmax(axis=-1)
    again, _, _ = both.model.multi_token(drafted, output[:, -1:], pairs)
    states = both.peer.new_cache()
    theirs = both.peer(0, both.tokens[:, 1:], both.peer.hidden(both.tokens)[:, :-1], states, first=1)
    assert np.array_equal(drafted, theirs[0][:, -1:].argmax(axis=-1))
    assert_agree(again, both.peer(0, drafted, theirs[1][:, -1:], states, first=LENGTH)[0])


def test_the_comparison_would_find_a_wrong_module(module_of: ModuleOf) -> None:
    both = module_of("untied")
    hidden = both.model.hidden(both.tokens)[0]
    logits, _ = expected(both)
    swapped = both.model.with_ops(Replaced(both.model.ops, {"multi_token_input": halves_exchanged}))
    found = both.model.multi_token(both.tokens[:, 1:], hidden[:, :-1])[0]
    unshifted = both.model.multi_token(both.tokens[:, :-1], hidden[:, :-1])[0]
    exchanged = swapped.multi_token(both.tokens[:, 1:], hidden[:, :-1])[0]
    assert relative_error(found, logits) < SAME_MEANING
    assert relative_error(unshifted, logits) > 1e-3
    assert relative_error(exchanged, logits) > 1e-3


def halves_exchanged(embedding: Array, hidden: Array, weight: Array) -> Array:
    return multi_token_input(hidden, embedding, weight)


def test_without_its_tensors_there_is_the_same_model_and_no_module(module_of: ModuleOf, pair_of: PairOf) -> None:
    both, pair = module_of("untied"), pair_of("qwen3_next-untied")
    assert (len(both.model.blueprint.multi_token), len(pair.model.blueprint.multi_token)) == (1, 0)
    assert np.array_equal(pair.model(both.tokens)[0], both.model(both.tokens)[0])


@pytest.mark.parametrize("kind", ["module", "itself", "prompt", "wrong"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_speculative_text_is_the_peers_greedy_text(kind: str, count: int, module_of: ModuleOf) -> None:
    both = module_of("untied")
    drafter = {
        "module": MultiTokenDrafter(both.model),
        "itself": ModelDrafter(both.model),
        "prompt": repeats_of(both.model.blueprint.vocab_size),
        "wrong": repeats_of(both.model.blueprint.vocab_size, after=0),
    }[kind]
    prompt = np.stack([both.tokens[0, :6], both.tokens[1, :6], both.tokens[0, 6:12]])
    options = {"speculative": drafter, "draft_tokens": count}
    for mask in (None, MASK):
        found = refimpl.generate(both.model, prompt, 18, attention_mask=mask, **options)
        given = {} if mask is None else {"attention_mask": mask}
        plain = peer_of(both).generate(prompt, 18, **given)
        assert np.array_equal(found, plain)
    end = int(plain[0, 11])
    ended = refimpl.generate(both.model, prompt, 18, attention_mask=MASK, eos_token_id=end, **options)
    assert np.array_equal(ended, refimpl.generate(both.model, prompt, 18, attention_mask=MASK, eos_token_id=end))
    assert not np.array_equal(ended, plain[:, : ended.shape[1]])


def peer_of(both: Module) -> Any:
    from .reference import Peer

    return Peer(both.peer.main)


def repeats_of(vocab_size: int, *, after: int = 1) -> Callable[[Array, int], Array]:
    """Prompt look-up: what followed the last token where it stood before, or else the token itself, again and again."""

    def draft(row: Array, count: int) -> Array:
        before = np.flatnonzero(row[:-1] == row[-1])
        follows = row[before[-1] + after :] if before.size else row[-1:]
        drafted: Array = np.resize(follows, count) % vocab_size
        return drafted

    return draft
