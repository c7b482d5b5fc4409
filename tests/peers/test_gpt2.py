"""GPT-2 as the hub has it, and the order of operations that means the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import refimpl

from .comparison import Pair, assert_agree
from .conftest import PairOf


@pytest.fixture(params=["gpt2-tied", "gpt2-untied"])
def gpt2(request: pytest.FixtureRequest, pair_of: PairOf) -> Pair:
    return pair_of(request.param)


def test_names_without_prefix_and_stored_masks(gpt2: Pair, tmp_path: Path) -> None:
    from .checkpoints import copy_with
    from .reference import load_peer

    directory = copy_with(gpt2.directory, tmp_path / "published", lambda config: config)
    written = load_file(directory / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in written.items()}
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 61, 61), np.float32))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tokens = gpt2.tokens(2, 29)
    expected, _ = load_peer(directory)(tokens)
    assert np.array_equal(expected, gpt2.peer(tokens)[0])
    assert_agree(refimpl.load(directory, dtype="float64")(tokens)[0], expected)


def test_reordered_attention_means_the_same(gpt2: Pair) -> None:
    tokens = gpt2.tokens(2, 29)
    attentions = [block.attn for block in gpt2.peer.network.transformer.h]
    calls = []
    for attention in attentions:
        attention.reorder_and_upcast_attn = True
        original = attention._upcast_and_reordered_attn
        attention._upcast_and_reordered_attn = lambda *args, original=original: calls.append(args) or original(*args)
    try:
        assert_agree(gpt2.model(tokens)[0], gpt2.peer(tokens)[0])
    finally:
        for attention in attentions:
            attention.reorder_and_upcast_attn = False
            del attention._upcast_and_reordered_attn
    assert len(calls) == len(attentions)
