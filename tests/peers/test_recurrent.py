"""Linear attention beside the peer's, which computes a prefill in chunks of 64 and one token by the recurrence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import refimpl

from .comparison import FLOAT32_ROUNDING, SAME_MEANING, SUMS, Array, Pair, assert_agree, relative_error, rounding_of_results
from .conftest import PairOf
from .test_calls import assert_agree_in_pieces, ones_except
from .variants import VARIANTS

pytest.importorskip("torch")
pytest.importorskip("transformers")

CHUNK = 64
RECURRENT = [name for name, variant in VARIANTS.items() if variant.recurrent]
EVERY = pytest.mark.parametrize("name", RECURRENT)


@EVERY
@pytest.mark.parametrize("length", [2, CHUNK + 3, 2 * CHUNK + 3])
def test_lengths_around_its_chunks(name: str, length: int, pair_of: PairOf) -> None:
    pair = pair_of(name)
    tokens = pair.tokens(2, length, seed=length)
    assert_agree(pair.model(tokens)[0], pair.peer(tokens)[0])


@EVERY
def test_pieces_across_its_chunks_then_decode(name: str, pair_of: PairOf) -> None:
    pair = pair_of(name)
    length = 2 * CHUNK + 9
    assert_agree_in_pieces(pair, pair.tokens(2, length, seed=1), [1, 3, 70, 71, 133, *range(134, length + 1)])


@EVERY
def test_left_padding_across_its_chunks_then_decode(name: str, pair_of: PairOf) -> None:
    pair = pair_of(name)
    tokens = pair.tokens(4, CHUNK + 9, seed=2)
    mask = ones_except(tokens.shape, 1, slice(0, 1)) * ones_except(tokens.shape, 2, slice(0, 40))
    mask *= ones_except(tokens.shape, 3, slice(0, CHUNK))
    assert_agree_in_pieces(pair, tokens, [CHUNK + 3, CHUNK + 4, CHUNK + 7, CHUNK + 8, CHUNK + 9], mask)


@EVERY
def test_padding_anywhere_leaves_the_row_alone(name: str, pair_of: PairOf) -> None:
    pair = pair_of(name)
    tokens = pair.tokens(2, CHUNK + 31, seed=3)
    mask = np.random.default_rng(8).binomial(1, 0.75, tokens.shape)
    logits, cache = pair.model(tokens, attention_mask=mask)
    further, _ = pair.model(tokens[:, :1], cache)
    for row, real in enumerate(mask == 1):
        alone, theirs = pair.peer(tokens[row : row + 1, real])
        assert_agree(logits[row : row + 1, real], alone)
        assert_agree(further[row : row + 1], pair.peer(tokens[row : row + 1, :1], theirs)[0])


def states(pair: Pair, tokens: Array) -> Iterator[tuple[Array, Array]]:
    """Every convolution and recurrent state after those tokens, of both."""
    _, ours = pair.model(tokens)
    _, theirs = pair.peer(tokens)
    for state, layer in zip(ours.states, theirs.states.layers, strict=True):
        if "recurrent_state" in state:
            width = state["conv_state"].shape[-1]
            inputs = layer.conv_states[0].numpy()
            yield state["conv_state"], inputs[..., inputs.shape[-1] - width :]
            yield state["recurrent_state"], layer.recurrent_states[0].numpy()


@EVERY
@pytest.mark.parametrize("length", [2, CHUNK + 3])
def test_the_states_themselves(name: str, length: int, pair_of: PairOf) -> None:
    pair = pair_of(name)
    for ours, theirs in states(pair, pair.tokens(2, length, seed=4)):
        assert ours.dtype == theirs.dtype == np.float64
        assert relative_error(ours, theirs) < SAME_MEANING if ours.size else ours.shape == theirs.shape


@pytest.mark.parametrize("name", ["qwen3_next-untied", "kimi_linear-untied"])
def test_decays_are_weak_and_strong(name: str, pair_of: PairOf) -> None:
    pair = pair_of(name)
    values = pair.model.trace(pair.tokens(2, 29))
    decays = np.concatenate([np.exp(value).ravel() for key, value in values.items() if key.endswith("log_decay")])
    assert decays.min() < 1e-6
    assert decays.max() > 0.999
    assert ((decays > 0.1) & (decays < 0.9)).any()


@pytest.mark.parametrize("name", ["qwen3_next-untied", "kimi_linear-untied"])
def test_float32_at_length(name: str, pair_of: PairOf) -> None:
    """Prefill, and decode on its states, as near the peer's float64 as a rounding of every result."""
    pair = pair_of(name)
    tokens, length = pair.tokens(1, 300, seed=5), 280
    expected, _ = pair.peer(tokens)
    model = pair.load("float32")
    logits, cache = model(tokens[:, :length])
    pieces = [logits]
    for column in tokens[:, length:].T:
        logits, cache = model(column[:, None], cache)
        pieces.append(logits)
    bound = max(FLOAT32_ROUNDING, SUMS * rounding_of_results(pair, tokens))
    assert bound < 5e-4
    for found in (model(tokens)[0], np.concatenate(pieces, axis=1)):
        assert relative_error(found, expected) < bound


def test_the_dense_layers_of_kimi_under_both_names(pair_of: PairOf, tmp_path: Path) -> None:
    """The release has them under `mlp`; transformers writes them under `block_sparse_moe`, as experts are called."""
    from .checkpoints import copy_with

    pair = pair_of("kimi_linear-dense_layers_anywhere")
    directory = copy_with(pair.directory, tmp_path / "published", lambda config: config)
    tensors = load_file(directory / "model.safetensors")
    dense = [name for name in tensors if ".block_sparse_moe." in name and name.split(".")[2] in "13"]
    assert len(dense) == 6
    for name in dense:
        tensors[name.replace("block_sparse_moe", "mlp")] = tensors.pop(name)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tokens = pair.tokens(2, 29)
    assert_agree(refimpl.load(directory, dtype="float64")(tokens)[0], pair.peer(tokens)[0])
