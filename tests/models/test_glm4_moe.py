"""What GLM-4.5 reads from a configuration, and the names of its tensors."""

from __future__ import annotations

from typing import Any

import pytest

import refimpl
from refimpl.blocks import MoE
from tests.tiny import without

GLM4_MOE = {
    "model_type": "glm4_moe",
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 28,
    "moe_intermediate_size": 10,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def config(**changes: Any) -> dict[str, Any]:
    return {**GLM4_MOE, **changes}


def layers(values: dict[str, Any]) -> Any:
    return refimpl.blueprint(values).layers


def moe(**changes: Any) -> MoE:
    found = layers(config(**changes))[-1].mlp
    assert isinstance(found, MoE)
    return found


def test_defaults_are_those_of_the_class() -> None:
    blueprint = refimpl.blueprint(without(config(hidden_size=64, num_attention_heads=8), "head_dim", "num_key_value_heads"))
    mixer, mlp = blueprint.layers[1].mixer, blueprint.layers[1].mlp
    assert (mixer.head_dim, mixer.kv_heads, mixer.qk_norm, mixer.qkv_bias, mixer.output_bias) == (8, 8, None, False, False)
    router = mlp.router
    assert (router.renormalise, router.scaling_factor, router.eps) == (True, 1.0, 1e-20)
    assert (router.groups, router.top_groups) == (1, 1)
    assert mlp.shared.intermediate_size == 10
    assert [isinstance(layer.mlp, MoE) for layer in blueprint.layers] == [False, True, True]


def test_the_default_eps_reaches_every_norm() -> None:
    blueprint = refimpl.blueprint(config(use_qk_norm=True))
    layer = blueprint.layers[0]
    assert {norm.eps for norm in (layer.mixer_norm, layer.mlp_norm, layer.mixer.qk_norm, blueprint.final_norm)} == {1e-5}


def test_biases_are_on_q_k_and_v_and_not_on_o() -> None:
    names = {name for name in refimpl.blueprint(config(attention_bias=True)).parameters() if name.endswith("proj.bias")}
    assert {name.rsplit(".", 2)[1] for name in names} == {"q_proj", "k_proj", "v_proj"}


def test_qk_norm_is_head_by_head_where_it_is_switched_on() -> None:
    shapes = refimpl.blueprint(config(use_qk_norm=True)).parameters()
    assert shapes["layers.2.mixer.q_norm.weight"] == shapes["layers.2.mixer.k_norm.weight"] == (8,)
    assert not any("q_norm" in name for name in refimpl.blueprint(config()).parameters())


@pytest.mark.parametrize(
    ("changes", "rotary_dim"),
    [
        ({}, 4),
        ({"partial_rotary_factor": 0.25}, 2),
        ({"rope_parameters": {"rope_theta": 10.0, "partial_rotary_factor": 0.75}}, 6),
        ({"rope_parameters": {"rope_theta": 10.0}}, 4),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 1.0}, 8),
    ],
)
def test_the_rotated_share_of_a_head(changes: dict[str, Any], rotary_dim: int) -> None:
    assert {layer.mixer.rope.rotary_dim for layer in layers(config(**changes))} == {rotary_dim}


@pytest.mark.parametrize(("first", "expected"), [(0, [1, 1, 1]), (2, [0, 0, 1]), (3, [0, 0, 0]), (9, [0, 0, 0])])
def test_the_first_layers_are_dense(first: int, expected: list[int]) -> None:
    assert [isinstance(layer.mlp, MoE) for layer in layers(config(first_k_dense_replace=first))] == expected


def test_a_model_without_dense_layers_needs_no_width_for_them() -> None:
    assert len(layers(without(config(first_k_dense_replace=0), "intermediate_size"))) == 3
    with pytest.raises(ValueError, match=r"^config: key 'intermediate_size' is missing"):
        layers(without(config(), "intermediate_size"))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shared_experts_are_one_network_of_their_joint_width(count: int) -> None:
    shared = moe(n_shared_experts=count).shared
    assert shared is not None
    assert shared.intermediate_size == count * 10


def test_no_shared_expert_is_none() -> None:
    assert moe(n_shared_experts=0).shared is None
    layout = refimpl.blueprint(config(n_shared_experts=0)).layouts[0]
    assert layout.ignores("model.layers.1.mlp.shared_experts.up_proj.weight")
    assert not refimpl.blueprint(config()).layouts[0].ignores("model.layers.1.mlp.shared_experts.up_proj.weight")


def test_router_switches() -> None:
    router: Any = moe(n_group=3, topk_group=2, norm_topk_prob=False, routed_scaling_factor=2.5, num_experts_per_tok=4).router
    assert (router.groups, router.top_groups, router.top_k, router.experts) == (3, 2, 4, 6)
    assert (router.renormalise, router.scaling_factor) == (False, 2.5)


def test_the_class_has_eight_experts_a_token() -> None:
    values = {key: value for key, value in config(n_routed_experts=9).items() if key != "num_experts_per_tok"}
    assert refimpl.blueprint(values).layers[-1].mlp.router.top_k == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_group": 4}, "1 of 4 groups cannot be chosen from 6 experts"),
        ({"n_group": 2, "topk_group": 3}, "3 of 2 groups cannot be chosen from 6 experts"),
        ({"n_group": 3, "num_experts_per_tok": 3}, "num_experts_per_tok is 3 but a token chooses among 2 of 6 experts"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7 but a token chooses among 6 of 6 experts"),
        ({"n_group": 0}, "n_group is 0 but needs a positive integer"),
        ({"n_shared_experts": -1}, "n_shared_experts is -1 but needs a number of at least 0"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace is -1 but needs a number of at least 0"),
        ({"num_nextn_predict_layers": -1}, "num_nextn_predict_layers is -1 but needs a number of modules, 0 to 10000"),
        ({"partial_rotary_factor": None}, "partial_rotary_factor is None but needs a number"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5 but needs at most 1"),
        (
            {"partial_rotary_factor": 0.4},
            "partial_rotary_factor is 0.4, which makes 3 of 8 entries rotate, but they go in pairs",
        ),
        ({"head_dim": 10}, "5 of 10 entries of a head are to be rotated, but they go in pairs"),
        ({"scoring_func": "softmax"}, "unknown key 'scoring_func'"),
        ({"topk_method": "greedy"}, "unknown key 'topk_method'"),
    ],
)
def test_what_is_wrong_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        layers(config(**changes))


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config(num_hidden_layers=2))
    shapes = blueprint.parameters()
    published, held = (layout.leaves(shapes) for layout in blueprint.layouts)
    matrices = ("gate_proj", "up_proj", "down_proj")
    beside = {"gate.weight", "gate.e_score_correction_bias", *(f"shared_experts.{name}.weight" for name in matrices)}

    def of_the_mlp(names: Any) -> set[str]:
        return {name.removeprefix("model.layers.1.mlp.") for name in names if name.startswith("model.layers.1.mlp.")}

    assert of_the_mlp(published) == {*beside, *(f"experts.{e}.{name}.weight" for e in range(6) for name in matrices)}
    assert of_the_mlp(held) == {*beside, "experts.gate_up_proj", "experts.down_proj"}
    assert published["model.layers.1.mlp.gate.e_score_correction_bias"].shape == (6,)


@pytest.mark.parametrize(
    ("release", "total", "active"),
    [
        ("zai-org/GLM-4.5", 352_797_814_784, 33_632_251_904),
        ("zai-org/GLM-4.5-Air", 106_852_245_504, 13_424_123_904),
    ],
)
def test_parameters_of_the_releases(release: str, total: int, active: int) -> None:
    blueprint = refimpl.blueprint(release)
    assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (total, active)
