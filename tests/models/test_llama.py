"""Llama 3: what its configuration says."""

from __future__ import annotations

import pytest

import refimpl
from refimpl.blocks import Llama3

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config(**changes: object) -> dict:
    sizes = {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2}
    return {"model_type": "llama", **sizes, "num_attention_heads": 6, "num_key_value_heads": 2, **changes}


def added(**changes: object) -> set[str]:
    """The parameters of the first layer that `changes` bring."""
    names = refimpl.blueprint(config(**changes)).parameters().keys() - refimpl.blueprint(config()).parameters().keys()
    return {name.removeprefix("layers.0.") for name in names if name.startswith("layers.0.")}


def test_defaults_are_those_of_the_class() -> None:
    blueprint = refimpl.blueprint(config())
    mixer = blueprint.layers[0].mixer
    assert (mixer.head_dim, mixer.scale, mixer.rope.theta, mixer.window, mixer.qk_norm) == (4, 0.5, 1e4, None, None)
    assert (blueprint.final_norm.eps, blueprint.layers[0].mlp.activation, blueprint.head.tied) == (1e-6, "silu", False)


def test_a_head_width_of_its_own_reaches_scale_and_rotation() -> None:
    mixer = refimpl.blueprint(config(head_dim=16)).layers[0].mixer
    assert (mixer.head_dim, mixer.scale, mixer.rope.rotary_dim) == (16, 0.25, 16)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B"])
def test_the_scaling_of_the_releases(name: str) -> None:
    (rope,) = refimpl.blueprint(name).ropes()
    constants = {key: value for key, value in LLAMA3.items() if key != "rope_type"}
    assert (rope.theta, rope.scaling) == (5e5, Llama3(**constants))


def test_biases_are_on_every_projection() -> None:
    assert added(attention_bias=True) == {f"mixer.{name}_proj.bias" for name in "qkvo"}
    assert added(mlp_bias=True) == {f"mlp.{name}_proj.bias" for name in ("gate", "up", "down")}


def test_a_null_scaling_is_none() -> None:
    assert refimpl.blueprint(config(rope_scaling=None)).ropes()[0].scaling is None


@pytest.mark.parametrize("key", ["sliding_window", "layer_types"])
def test_a_key_of_another_architecture_is_unknown(key: str) -> None:
    with pytest.raises(ValueError, match=f"^config: unknown key '{key}'"):
        refimpl.blueprint(config(**{key: 3}))
