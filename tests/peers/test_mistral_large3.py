"""Mistral's own format against transformers' Mistral 4: the same tensors and switches under other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl

from .comparison import assert_agree, relative_error
from .variants import BASE, Variant

# In transformers the norms between the projections have this eps whatever the configuration says.
EPS = {"rms_norm_eps": 1e-6}
YARN = {"beta_fast": 3.0, "beta_slow": 0.4, **BASE["mistral4"]["rope_parameters"]}
M_SQUARED = {"rope_parameters": YARN}
AS_RELEASED = {
    "rope_parameters": {
        **{key: value for key, value in YARN.items() if not key.startswith("mscale")},
        "attention_factor": 1.0,
    }
}
VARIANTS = {
    "as_released": AS_RELEASED,
    "apply_scale": M_SQUARED,
    "tied": {**AS_RELEASED, "tie_word_embeddings": True},
    "two_shared_experts": {**AS_RELEASED, "n_shared_experts": 2, "first_k_dense_replace": 2},
    "no_dense_layer": {**M_SQUARED, "first_k_dense_replace": 0, "num_experts_per_tok": 1},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, _one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint in Mistral's format, and the peer of the one that it is made of."""
    pytest.importorskip("transformers")
    from .checkpoints import write_checkpoint
    from .mistral_format import rewrite
    from .reference import load_peer

    directory = tmp_path_factory.mktemp(request.param)
    settings = {**EPS, **VARIANTS[request.param]}
    source = write_checkpoint(Variant(architecture="mistral4", settings=settings), directory / "transformers")
    rewrite(source, directory / "mistral")
    return directory / "mistral", load_peer(source)


@pytest.fixture(params=[False, True], ids=["absorbed", "expanded"])
def model(request: pytest.FixtureRequest, pair: tuple[Path, Any]) -> refimpl.Model:
    loaded = refimpl.load(pair[0])
    return loaded.expanded() if request.param else loaded


def draw(batch: int = 2, length: int = 29) -> np.ndarray:
    return np.random.default_rng(1).integers(0, BASE["mistral4"]["vocab_size"], (batch, length))


def test_prefill(pair: tuple[Path, Any], model: refimpl.Model) -> None:
    tokens = draw(3)
    assert_agree(model(tokens)[0], pair[1](tokens)[0])


def test_pieces_then_decode(pair: tuple[Path, Any], model: refimpl.Model) -> None:
    tokens = draw()
    ours = theirs = None
    for start, stop in ((0, 11), (11, 12), (12, 26), (26, 27), (27, 28), (28, 29)):
        actual, ours = model(tokens[:, start:stop], ours)
        expected, theirs = pair[1](tokens[:, start:stop], theirs)
        assert_agree(actual, expected)


def test_left_padding(pair: tuple[Path, Any], model: refimpl.Model) -> None:
    tokens, mask = draw(), np.ones((2, 29), np.int64)
    mask[1, :8] = 0
    assert_agree(model(tokens, attention_mask=mask)[0], pair[1](tokens, attention_mask=mask)[0], real=mask)


def test_far_positions(pair: tuple[Path, Any], model: refimpl.Model) -> None:
    tokens = draw()
    positions = np.random.default_rng(2).integers(0, 5000, tokens.shape)
    assert_agree(model(tokens, positions=positions)[0], pair[1](tokens, positions=positions)[0])


def test_every_switch_of_the_format_decides_something(pair: tuple[Path, Any]) -> None:
    """Each key set to another value moves the logits, so that agreement above says something about it."""
    from refimpl.api import read_config

    params, tokens = read_config(pair[0]), draw()
    weights = refimpl.load(pair[0]).weights
    expected, _ = refimpl.load(pair[0])(tokens)
    changes: dict[str, dict[str, Any]] = {
        "norm_eps": {"norm_eps": 0.01},
        "rope_theta": {"rope_theta": 90.0},
        "temperature": {"llama_4_scaling": None},
        "its floor": {"llama_4_scaling": {"beta": 0.4, "original_max_position_embeddings": 11}},
        "yarn": {"yarn": None},
        "alpha": {"yarn": {**params["yarn"], "alpha": 0.05}},
        "beta": {"yarn": {**params["yarn"], "beta": 0.3}},
        "apply_scale": {"yarn": {**params["yarn"], "apply_scale": not params["yarn"]["apply_scale"]}},
    }
    for name, change in changes.items():
        blueprint = refimpl.blueprint({**params, **change})
        other, _ = refimpl.model.numpy_model(blueprint, weights, "float64")(tokens)
        assert relative_error(other, expected) > 1e-5, name
