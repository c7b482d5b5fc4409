"""What the random checkpoints leave to chance about routers, and experts as transformers holds them in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import refimpl

from .comparison import assert_agree
from .conftest import PairOf

BIASES = "e_score_correction_bias"


@pytest.mark.parametrize("name", ["glm4_moe-groups", "glm4_moe-one_of_many_groups"])
def test_experts_outside_the_chosen_groups_are_none_however_low_the_scores_inside(
    name: str, pair_of: PairOf, tmp_path: Path
) -> None:
    """Every corrected score is negative, so that a 0 outside the groups would be chosen; the peer masks with -inf."""
    from .checkpoints import copy_with
    from .reference import load_peer

    pair = pair_of(name)
    directory = copy_with(pair.directory, tmp_path / "negative", lambda config: config)
    tensors = load_file(directory / "model.safetensors")
    moved = {key: array - np.float32(8) if key.endswith(BIASES) else array for key, array in tensors.items()}
    assert max(array.max() for key, array in moved.items() if key.endswith(BIASES)) < -4
    save_file(moved, directory / "model.safetensors", metadata={"format": "pt"})
    tokens = pair.tokens(2, 29)
    expected, _ = load_peer(directory)(tokens)
    assert_agree(refimpl.load(directory, dtype="float64")(tokens)[0], expected)
    # Which experts are chosen depends on differences of corrected scores alone.
    assert_agree(pair.model(tokens)[0], expected)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["qwen3_moe-dense_layers", "glm4_moe-groups", "minimax_m2-untied"])
def test_experts_that_are_saved_as_they_are_held(name: str, stream: bool, pair_of: PairOf, tmp_path: Path) -> None:
    """One stack for gate and up of all experts: what `save_pretrained` writes without converting names back."""
    from .checkpoints import copy_with
    from .reference import load_network, quiet

    torch = pytest.importorskip("torch")
    pair = pair_of(name)
    directory = copy_with(pair.directory, tmp_path / "held", lambda config: config)
    with quiet():
        load_network(pair.directory, torch.float32).save_pretrained(directory, save_original_format=False)
    names = load_file(directory / "model.safetensors").keys()
    assert any(key.endswith("mlp.experts.gate_up_proj") for key in names)
    assert not any(".experts.0." in key for key in names)
    tokens = pair.tokens(2, 29)
    assert_agree(refimpl.load(directory, dtype="float64", stream=stream)(tokens)[0], pair.peer(tokens)[0])
