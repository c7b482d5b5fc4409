"""What Qwen3-MoE reads from a configuration, and the names of its tensors."""

from __future__ import annotations

from typing import Any

import pytest

import refimpl
from refimpl.blocks import GatedMLP, MoE
from refimpl.storage import Part, Stacked, Tensor
from tests.tiny import without

QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 28,
    "moe_intermediate_size": 12,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def config(**changes: Any) -> dict[str, Any]:
    return {**QWEN3_MOE, **changes}


def layers(values: dict[str, Any]) -> Any:
    return refimpl.blueprint(values).layers


def kinds(**changes: Any) -> str:
    """One letter a layer: e where it has experts, d where it is dense."""
    return "".join("e" if isinstance(layer.mlp, MoE) else "d" for layer in layers(config(**changes)))


def test_defaults_are_those_of_the_class() -> None:
    blueprint = refimpl.blueprint(without(config(hidden_size=24, num_attention_heads=4), "head_dim", "num_key_value_heads"))
    mixer, mlp = blueprint.layers[0].mixer, blueprint.layers[0].mlp
    assert (mixer.head_dim, mixer.kv_heads, mixer.window, mixer.rope.theta, mixer.qkv_bias) == (6, 4, None, 1e4, False)
    assert (mlp.router.renormalise, mlp.experts.activation, blueprint.final_norm.eps) == (False, "silu", 1e-6)
    assert (blueprint.head.tied, kinds(), mlp.shared, mlp.factor) == (False, "eeee", None, None)


@pytest.mark.parametrize("renormalise", [True, False])
def test_whether_weights_are_renormalised_is_what_the_file_says(renormalise: bool) -> None:
    assert {layer.mlp.router.renormalise for layer in layers(config(norm_topk_prob=renormalise))} == {renormalise}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"decoder_sparse_step": 2}, "dede"),
        ({"decoder_sparse_step": 3}, "dded"),
        ({"decoder_sparse_step": 9}, "dddd"),
        ({"mlp_only_layers": [0, 3]}, "deed"),
        ({"mlp_only_layers": None}, "eeee"),
        ({"mlp_only_layers": [1], "decoder_sparse_step": 2}, "ddde"),
    ],
)
def test_which_layers_have_experts(changes: dict[str, Any], expected: str) -> None:
    assert kinds(**changes) == expected


def test_the_widths_of_experts_and_of_dense_layers_differ() -> None:
    sparse, dense = (layers(config(mlp_only_layers=[1]))[index].mlp for index in (0, 1))
    assert (sparse.experts.intermediate_size, sparse.experts.experts, sparse.router.top_k) == (12, 5, 2)
    assert isinstance(dense, GatedMLP)
    assert dense.intermediate_size == 28


def test_a_model_without_dense_layers_needs_no_width_for_them() -> None:
    assert layers(without(config(), "intermediate_size")) == layers(config())
    with pytest.raises(ValueError, match=r"^config: key 'intermediate_size' is missing"):
        layers(without(config(mlp_only_layers=[0]), "intermediate_size"))


@pytest.mark.parametrize("rest", [{}, {"num_experts": 5}])
def test_the_number_of_experts_has_two_names(rest: dict[str, int]) -> None:
    values = {**without(config(), "num_experts"), "num_local_experts": 5, **rest}
    assert layers(values) == layers(config())


def test_a_window_is_on_every_layer() -> None:
    values = config(use_sliding_window=True, sliding_window=7, max_window_layers=3)
    assert [layer.mixer.window for layer in layers(values)] == [7] * 4
    assert [layer.mixer.window for layer in layers(without(values, "sliding_window"))] == [4096] * 4
    assert {layer.mixer.window for layer in layers(config(sliding_window=7))} == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 6}, "num_experts is 5 but num_local_experts is 6; one of them must go"),
        ({"num_experts_per_tok": 6}, "num_experts_per_tok is 6 but a token chooses among 5 of 5 experts"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0 but needs a positive integer"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0 but needs a positive integer"),
        ({"mlp_only_layers": [4]}, "mlp_only_layers has 4 but needs numbers of layers, 0 to 3"),
        ({"mlp_only_layers": [-1]}, "mlp_only_layers has -1 but needs numbers of layers, 0 to 3"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers has True but needs numbers of layers, 0 to 3"),
        ({"norm_topk_prob": None}, "norm_topk_prob is None but needs true or false"),
        ({"layer_types": ["full_attention"] * 4}, "unknown key 'layer_types'"),
        ({"n_shared_experts": 1}, "unknown key 'n_shared_experts'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5 but 'qwen3_moe' rotates whole heads"),
    ],
)
def test_what_is_wrong_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        layers(config(**changes))


@pytest.mark.parametrize("key", ["num_experts", "moe_intermediate_size"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"^config: key '{key}' is missing and 'qwen3_moe' needs it"):
        layers(without(config(), key))


def test_the_class_has_eight_experts_a_token() -> None:
    values = without(config(num_experts=9), "num_experts_per_tok")
    assert layers(values)[0].mlp.router.top_k == 8


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config(num_hidden_layers=2, mlp_only_layers=[1]))
    published, held = blueprint.layouts
    names = published.leaves(blueprint.parameters())
    sparse = {name.removeprefix("model.layers.0.mlp.") for name in names if name.startswith("model.layers.0.mlp.")}
    matrices = ("gate_proj", "up_proj", "down_proj")
    assert sparse == {"gate.weight", *(f"experts.{e}.{name}.weight" for e in range(5) for name in matrices)}
    dense = {name for name in names if name.startswith("model.layers.1.mlp.")}
    assert dense == {f"model.layers.1.mlp.{name}.weight" for name in matrices}
    down = published.sources["layers.0.mlp.experts.down_proj.weight"]
    assert isinstance(down, Stacked)
    assert down.sources[4] == Tensor("model.layers.0.mlp.experts.4.down_proj.weight")
    up = held.sources["layers.0.mlp.experts.up_proj.weight"]
    assert up == Part(source=Tensor("model.layers.0.mlp.experts.gate_up_proj"), axis=-2, start=12, stop=24, whole=24)
    fused = held.leaves(blueprint.parameters())
    assert fused["model.layers.0.mlp.experts.gate_up_proj"].shape == (5, 24, 20)
    assert fused["model.layers.0.mlp.experts.down_proj"].shape == (5, 20, 12)


@pytest.mark.parametrize(
    ("release", "total", "active"),
    [
        ("Qwen/Qwen3-30B-A3B", 30_532_122_624, 3_353_032_704),
        ("Qwen/Qwen3-235B-A22B", 235_093_634_560, 22_190_763_520),
    ],
)
def test_parameters_of_the_releases(release: str, total: int, active: int) -> None:
    blueprint = refimpl.blueprint(release)
    assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (total, active)
