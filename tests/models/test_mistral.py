"""Mistral: its window, its head width, and the multimodal release around it."""

from __future__ import annotations

import pytest

import refimpl


def config(**changes: object) -> dict:
    sizes = {"vocab_size": 53, "hidden_size": 32, "intermediate_size": 34, "num_hidden_layers": 2}
    return {"model_type": "mistral", **sizes, "num_attention_heads": 8, "num_key_value_heads": 2, **changes}


def windows(**changes: object) -> list[int | None]:
    return [layer.mixer.window for layer in refimpl.blueprint(config(**changes)).layers]


def test_every_layer_has_the_window() -> None:
    assert windows(sliding_window=7) == [7, 7]


def test_an_absent_window_is_that_of_the_class_and_null_is_none() -> None:
    assert windows() == [4096, 4096]
    assert windows(sliding_window=None) == [None, None]


def test_defaults_are_those_of_the_class() -> None:
    values = config()
    del values["num_key_value_heads"]
    blueprint = refimpl.blueprint(values)
    mixer = blueprint.layers[0].mixer
    assert (mixer.kv_heads, mixer.head_dim, mixer.rope.theta, blueprint.head.tied) == (8, 4, 1e4, False)
    assert (blueprint.final_norm.eps, blueprint.layers[0].mlp.activation) == (1e-6, "silu")


def test_a_head_width_of_its_own_reaches_scale_and_rotation() -> None:
    mixer = refimpl.blueprint(config(head_dim=16)).layers[0].mixer
    assert (mixer.head_dim, mixer.scale, mixer.rope.rotary_dim) == (16, 0.25, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 0}, "sliding_window is 0 but needs a positive integer"),
        ({"layer_types": ["full_attention"] * 2}, "unknown key 'layer_types'"),
        ({"attention_bias": True}, "unknown key 'attention_bias'"),
    ],
)
def test_what_it_does_not_have_is_an_error(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        refimpl.blueprint(config(**changes))


def test_the_release() -> None:
    blueprint = refimpl.blueprint("mistralai/Mistral-Small-3.1-24B-Instruct-2503")
    mixer = blueprint.layers[0].mixer
    assert (blueprint.architecture, blueprint.head.tied, mixer.window, mixer.head_dim) == ("mistral3", False, None, 128)
    assert mixer.rope.theta == 1e9


def test_another_language_model_inside_is_one_sentence() -> None:
    values = {"model_type": "mistral3", "text_config": config(model_type="ministral3")}
    message = r"^config: text_config.model_type is 'ministral3' but 'mistral3' supports 'mistral'$"
    with pytest.raises(ValueError, match=message):
        refimpl.blueprint(values)
