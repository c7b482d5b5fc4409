"""OLMo 2: what its configuration says, what its tensors are called."""

from __future__ import annotations

import pytest

import refimpl
from refimpl.blocks import RMSNorm


def config(**changes: object) -> dict:
    sizes = {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2}
    return {"model_type": "olmo2", **sizes, "num_attention_heads": 6, "num_key_value_heads": 2, **changes}


def test_defaults_are_those_of_the_class() -> None:
    blueprint = refimpl.blueprint(config())
    mixer = blueprint.layers[0].mixer
    assert (mixer.head_dim, mixer.scale, mixer.rope.theta) == (4, 0.5, 1e4)
    assert (blueprint.final_norm.eps, blueprint.layers[0].mlp.activation, blueprint.head.tied) == (1e-5, "silu", False)
    assert not mixer.qkv_bias
    assert not mixer.output_bias


def test_norms_stand_behind_the_branches_alone() -> None:
    blueprint = refimpl.blueprint(config(rms_norm_eps=0.125))
    norm = RMSNorm(size=24, eps=0.125)
    for layer in blueprint.layers:
        assert (layer.mixer_norm, layer.mlp_norm) == (None, None)
        assert (layer.mixer_post_norm, layer.mlp_post_norm) == (norm, norm)
    assert blueprint.final_norm == norm


def test_q_and_k_are_normed_over_their_whole_projections() -> None:
    blueprint = refimpl.blueprint(config(head_dim=6, rms_norm_eps=0.125))
    shapes = blueprint.parameters()
    assert (shapes["layers.1.mixer.q_norm.weight"], shapes["layers.1.mixer.k_norm.weight"]) == ((36,), (12,))
    assert blueprint.layers[0].mixer.qk_norm.eps == 0.125


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config(num_hidden_layers=1, attention_bias=True))
    (layout,) = blueprint.layouts
    projections = {f"self_attn.{name}_proj.{kind}" for name in "qkvo" for kind in ("weight", "bias")}
    norms = {f"{name}.weight" for name in ("post_attention_layernorm", "post_feedforward_layernorm")}
    norms |= {f"self_attn.{name}_norm.weight" for name in "qk"}
    mlp = {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    ends = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    inner = {f"model.layers.0.{name}" for name in projections | norms | mlp}
    assert layout.leaves(blueprint.parameters()).keys() == inner | ends


def test_the_releases() -> None:
    small, large = (refimpl.blueprint(f"allenai/{name}") for name in ("OLMo-2-1124-7B", "OLMo-2-0325-32B"))
    assert small.parameters()["layers.0.mixer.k_norm.weight"] == (4096,)
    assert large.parameters()["layers.0.mixer.k_norm.weight"] == (1024,)
    assert {rope.theta for plan in (small, large) for rope in plan.ropes()} == {5e5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": None}, "head_dim is None but needs an integer"),
        ({"clip_qkv": 8.0}, "unknown key 'clip_qkv'"),
        ({"num_key_value_heads": 4}, "num_attention_heads is 6, which num_key_value_heads = 4 does not divide"),
    ],
)
def test_what_it_does_not_have_is_an_error(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        refimpl.blueprint(config(**changes))
