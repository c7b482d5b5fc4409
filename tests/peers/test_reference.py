"""The peer as a witness for checkpoints that were not written by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import refimpl
from refimpl.checkpoint import save_checkpoint

from .comparison import assert_agree
from .variants import BASE

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def written_by_the_specification(directory: Path, *, without: str = "") -> refimpl.Model:
    """A checkpoint without the keys and values that only transformers would write."""
    config = {key: value for key, value in BASE["smollm3"].items() if not key.endswith("token_id")}
    model = refimpl.init({**config, "model_type": "smollm3"}, seed=4, dtype="float64")
    tensors = model.blueprint.layouts[0].write(model.weights)
    tensors.pop(without, None)
    save_checkpoint(directory, dict(model.blueprint.config), tensors)
    return model


def test_it_confirms_and_says_who_it_is(tmp_path: Path) -> None:
    from .reference import float64_logits

    model = written_by_the_specification(tmp_path)
    tokens = np.random.default_rng(1).integers(0, 67, (2, 17))
    logits, name, version = float64_logits(tmp_path, tokens)
    assert (name, version) == ("transformers", transformers.__version__)
    assert_agree(model(tokens)[0], logits)


def test_it_does_not_make_up_a_missing_tensor(tmp_path: Path) -> None:
    from .reference import load_peer

    missing = "model.layers.1.mlp.up_proj.weight"
    written_by_the_specification(tmp_path, without=missing)
    with pytest.raises(ValueError, match=missing):
        load_peer(tmp_path)
