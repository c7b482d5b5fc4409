"""What Kimi Linear reads from a configuration, published or as transformers writes it, and the names of its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import KimiDeltaAttention, LatentAttention, MoE
from refimpl.checkpoint import save_checkpoint
from tests.tiny import tokens, without

COMMON = {
    "model_type": "kimi_linear",
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 28,
    "moe_intermediate_size": 9,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 3,
    "v_head_dim": 5,
}
PUBLISHED = {
    **COMMON,
    "q_lora_rank": None,
    "linear_attn_config": {
        "num_heads": 3,
        "head_dim": 7,
        "short_conv_kernel_size": 5,
        "full_attn_layers": [2, 4],
        "kda_layers": [1, 3],
    },
    "num_experts": 6,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "num_expert_group": 2,
    "topk_group": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "mla_use_nope": True,
    "use_grouped_topk": True,
    "num_nextn_predict_layers": 0,
    "head_dim": 72,
    "model_max_length": 512,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}
FULL, LINEAR = "full_attention", "linear_attention"
# The same as transformers writes it, and with the names that its class has inside.
WRITTEN = {
    **COMMON,
    "linear_num_heads": 3,
    "linear_head_dim": 7,
    "linear_conv_kernel_dim": 5,
    "layer_types": [LINEAR, FULL, LINEAR, FULL],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "num_experts": 6,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "num_expert_group": 2,
    "moe_renormalize": True,
    "qk_head_dim": 9,
    "head_dim": 3,
}
RENAMED = {
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "num_expert_group": "n_group",
    "moe_renormalize": "norm_topk_prob",
    "model_max_length": "max_position_embeddings",
}


def config(**changes: Any) -> dict[str, Any]:
    return {**PUBLISHED, **changes}


def linear_config(**changes: Any) -> dict[str, Any]:
    return config(linear_attn_config={**PUBLISHED["linear_attn_config"], **changes})


def layers(values: dict[str, Any]) -> Any:
    return refimpl.blueprint(values).layers


def kinds(values: dict[str, Any]) -> str:
    """F or L for each layer."""
    return "".join("F" if isinstance(layer.mixer, LatentAttention) else "L" for layer in layers(values))


def test_defaults_are_those_of_the_class() -> None:
    absent = ["linear_attn_config", "num_experts_per_token", "num_shared_experts", "num_expert_group", "moe_renormalize"]
    absent += ["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "q_lora_rank", "first_k_dense_replace"]
    blueprint = refimpl.blueprint(without(config(num_hidden_layers=6, num_experts=12), *absent))
    linear, full, moe = blueprint.layers[0].mixer, blueprint.layers[4].mixer, blueprint.layers[1].mlp
    assert linear == KimiDeltaAttention(hidden_size=20, heads=32, head_dim=128, conv_width=4, norm_eps=1e-5)
    assert (full.q_lora_rank, full.kv_lora_rank, full.nope_head_dim, full.rope_head_dim, full.v_head_dim) == (
        None,
        512,
        128,
        64,
        128,
    )
    router = moe.router
    assert (router.top_k, router.groups, router.top_groups, router.renormalise, router.scaling_factor) == (8, 1, 1, True, 2.446)
    assert moe.shared.intermediate_size == 9
    assert blueprint.final_norm.eps == 1e-5


def test_the_published_and_the_written_form_are_one_model() -> None:
    inner = {RENAMED.get(key, key): value for key, value in WRITTEN.items()}
    published = refimpl.blueprint(PUBLISHED)
    for other in (refimpl.blueprint(WRITTEN), refimpl.blueprint(inner)):
        assert other.layers == published.layers
        assert other.parameters() == published.parameters()


def test_latent_attention_has_no_positions() -> None:
    full = layers(config())[1].mixer
    assert (full.rope, full.scale, full.norm_eps, full.bias) == (None, 9**-0.5, 1e-6, False)
    assert refimpl.blueprint(config()).ropes() == []
    assert layers(config(q_lora_rank=8))[1].mixer.q_lora_rank == 8


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (config(), "LFLF"),
        (linear_config(kda_layers=[2, 3, 4], full_attn_layers=[1]), "FLLL"),
        (linear_config(kda_layers=[4, 3, 2, 1], full_attn_layers=[]), "LLLL"),
        (without(config(num_hidden_layers=9), "linear_attn_config"), "LLLLFLLLF"),
        (config(layer_types=[LINEAR, FULL, LINEAR, FULL]), "LFLF"),
        ({**WRITTEN, "layer_types": [FULL, FULL, LINEAR, LINEAR]}, "FFLL"),
    ],
)
def test_which_layers_are_full_attention(values: dict[str, Any], expected: str) -> None:
    assert kinds(values) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ".EEE"),
        ({"first_k_dense_replace": 0}, "EEEE"),
        ({"first_k_dense_replace": 3}, "...E"),
        ({"mlp_layer_types": ["sparse", "dense", "sparse", "dense"]}, "E.E."),
    ],
)
def test_which_layers_have_experts(changes: dict[str, Any], expected: str) -> None:
    assert "".join("E" if isinstance(layer.mlp, MoE) else "." for layer in layers(config(**changes))) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mla_use_nope": False}, "mla_use_nope is False but 'kimi_linear' supports True"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2 but 'kimi_linear' supports 1"),
        (
            {"moe_router_activation_func": "softmax"},
            "moe_router_activation_func is 'softmax' but 'kimi_linear' supports 'sigmoid'",
        ),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers is 1 but 'kimi_linear' supports 0"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' but 'kimi_linear' supports 'silu'"),
        ({"num_local_experts": 7}, "num_experts is 6 but num_local_experts is 7; one of them must go"),
        ({"linear_head_dim": 8}, "linear_head_dim is 8 but linear_attn_config has head_dim = 7; one of them must go"),
        ({"layer_types": [FULL] * 4}, "layer_types and linear_attn_config name other layers; one of them must go"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2 but latent attention has as many as num_attention_heads = 4"),
        ({"num_experts_per_token": 4}, "num_experts_per_token is 4 but a token chooses among 3 of 6 experts"),
        ({"rope_interleave": True}, "unknown key 'rope_interleave'"),
        (
            linear_config(kda_layers=[0, 2]),
            "kda_layers is [0, 2] and full_attn_layers is [2, 4] but they must name each of 1 to 4",
        ),
        (linear_config(kda_layers=None), "kda_layers is None and full_attn_layers is [2, 4] but they must name each"),
        (linear_config(zzz=1), "unknown key 'zzz'"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^config: ") as error:
        refimpl.blueprint(config(**changes))
    assert message in str(error.value)


def test_two_names_that_agree_pass() -> None:
    assert refimpl.blueprint(config(num_local_experts=6, linear_head_dim=7)).layers == layers(config())


SHAPES = {
    "q_proj.weight": (21, 20),
    "k_proj.weight": (21, 20),
    "v_proj.weight": (21, 20),
    "b_proj.weight": (3, 20),
    "g_a_proj.weight": (7, 20),
    "g_b_proj.weight": (21, 7),
    "o_norm.weight": (7,),
    "o_proj.weight": (20, 21),
}
FORGET_GATE = {"f_a_proj.weight": (7, 20), "f_b_proj.weight": (21, 7), "A_log": (1, 1, 3, 1), "dt_bias": (21,)}
# Of the linear attention of a layer: published, and as transformers holds it.
PUBLISHED_LINEAR = {**SHAPES, **FORGET_GATE, **{f"{name}_conv1d.weight": (21, 1, 5) for name in "qkv"}}
HELD_LINEAR = {**SHAPES, **{f"forget_gate.{name}": shape for name, shape in FORGET_GATE.items()}, "conv1d.weight": (63, 1, 5)}
# The layout, where its linear attention is as, where its dense layers and its experts are.
FORMS = {
    "published": (0, PUBLISHED_LINEAR, "mlp", "block_sparse_moe"),
    "held": (1, HELD_LINEAR, "mlp", "mlp"),
    "written": (2, PUBLISHED_LINEAR, "block_sparse_moe", "block_sparse_moe"),
}
EVERY = pytest.mark.parametrize("form", FORMS)


@EVERY
def test_names_on_disk(form: str) -> None:
    blueprint = refimpl.blueprint(config())
    place, linear, dense, sparse = FORMS[form]
    leaves = blueprint.layouts[place].leaves(blueprint.parameters())
    found = {name.removeprefix("model."): leaf.shape for name, leaf in leaves.items()}
    start = "layers.2.self_attn."
    assert {name.removeprefix(start): shape for name, shape in found.items() if name.startswith(start)} == linear
    assert {f"layers.0.{dense}.{name}_proj.weight" for name in ("gate", "up", "down")} < set(found)
    assert found[f"layers.2.{sparse}.gate.e_score_correction_bias"] == (6,)
    assert found[f"layers.2.{sparse}.gate.weight"] == (6, 20)
    assert found[f"layers.2.{sparse}.shared_experts.down_proj.weight"] == (20, 9)
    if form == "held":
        assert found["layers.2.mlp.experts.gate_up_proj"] == (6, 18, 20)
    else:
        assert [found[f"layers.2.{sparse}.experts.5.w{number}.weight"] for number in (1, 2, 3)] == [(9, 20), (20, 9), (9, 20)]
    assert found["layers.3.self_attn.kv_a_proj_with_mqa.weight"] == (13, 20)


@pytest.mark.parametrize("stream", [False, True])
@EVERY
def test_what_is_written_is_read(form: str, stream: bool, tmp_path: Path) -> None:
    drawn = refimpl.init(config(), seed=2)
    save_checkpoint(tmp_path, config(), drawn.blueprint.layouts[FORMS[form][0]].write(drawn.weights))
    text = tokens(2, 9, vocab_size=53)
    assert np.array_equal(refimpl.load(tmp_path, "float32", stream=stream)(text)[0], drawn(text)[0])


def test_the_three_convolutions_are_those_of_q_k_and_v_in_order() -> None:
    drawn = refimpl.init(config(), seed=2)
    tensors = drawn.blueprint.layouts[0].write(drawn.weights)
    shares = [tensors[f"model.layers.0.self_attn.{name}_conv1d.weight"][:, 0] for name in "qkv"]
    np.testing.assert_array_equal(np.concatenate(shares), drawn.weights["layers.0.mixer.conv1d.weight"])


def test_a_shared_network_of_width_zero_is_none() -> None:
    blueprint = refimpl.blueprint(config(num_shared_experts=0))
    assert blueprint.layers[1].mlp.shared is None
    assert blueprint.layouts[1].ignores("model.layers.1.mlp.shared_experts.up_proj.weight")
