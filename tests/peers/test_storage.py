"""How tensors lie on disk changes nothing but their rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import refimpl

from .comparison import Pair, assert_agree
from .conftest import PairOf
from .variants import VARIANTS

ON_DISK = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def test_the_files_are_what_the_variant_says(pair: Pair) -> None:
    files = sorted(pair.directory.glob("*.safetensors"))
    assert (
        (len(files) > 1) == ("KB" in pair.variant.max_shard_size) == (pair.directory / "model.safetensors.index.json").exists()
    )
    stored = set()
    for file in files:
        with safe_open(file, "numpy") as tensors:
            stored |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118 (no other iteration)
    assert stored == {ON_DISK[pair.variant.dtype]}


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if "KB" in variant.max_shard_size])
def test_streamed_from_shards(name: str, pair_of: PairOf) -> None:
    pair = pair_of(name)
    tokens = pair.tokens(2, 29)
    streamed = refimpl.load(pair.directory, dtype="float64", stream=True)
    assert_agree(streamed(tokens)[0], pair.peer(tokens)[0])


def test_a_tied_head_that_is_stored_as_well(pair_of: PairOf, tmp_path: Path) -> None:
    from .checkpoints import copy_with
    from .reference import load_peer

    pair = pair_of("qwen3-tied")
    directory = copy_with(pair.directory, tmp_path / "twice", lambda config: config)
    tensors = load_file(directory / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tokens = pair.tokens(2, 29)
    expected, _ = load_peer(directory)(tokens)
    assert np.array_equal(expected, pair.peer(tokens)[0])
    assert_agree(refimpl.load(directory, dtype="float64")(tokens)[0], expected)


def test_the_index_may_list_the_tensors_in_any_order(pair_of: PairOf, tmp_path: Path) -> None:
    from .checkpoints import copy_with

    pair = pair_of("qwen3-bfloat16_shards")
    directory = copy_with(pair.directory, tmp_path / "shuffled", lambda config: config)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = dict(sorted(index["weight_map"].items(), reverse=True))
    path.write_text(json.dumps(index))
    tokens = pair.tokens(2, 29)
    assert_agree(refimpl.load(directory, dtype="float64")(tokens)[0], pair.peer(tokens)[0])
