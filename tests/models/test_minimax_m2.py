"""What MiniMax-M2 reads from a configuration, and the names of its tensors."""

from __future__ import annotations

from typing import Any

import pytest

import refimpl
from tests.tiny import without

MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 12,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def config(**changes: Any) -> dict[str, Any]:
    return {**MINIMAX_M2, **changes}


def layers(values: dict[str, Any]) -> Any:
    return refimpl.blueprint(values).layers


def test_defaults_are_those_of_the_class() -> None:
    values = without(config(num_attention_heads=8), "head_dim", "num_key_value_heads", "rotary_dim")
    blueprint = refimpl.blueprint(values)
    mixer, mlp = blueprint.layers[0].mixer, blueprint.layers[0].mlp
    assert (mixer.head_dim, mixer.kv_heads, mixer.rope.rotary_dim, mixer.rope.theta) == (128, 8, 128, 5e6)
    assert (mlp.shared, blueprint.final_norm.eps, blueprint.head.tied) == (None, 1e-6, False)


def test_the_weights_of_the_chosen_are_their_shares_without_an_epsilon() -> None:
    router = layers(config())[0].mlp.router
    assert (router.renormalise, router.eps, router.scaling_factor, router.groups) == (True, 0.0, 1.0, 1)


def test_qk_norm_is_over_the_projection() -> None:
    shapes = refimpl.blueprint(config()).parameters()
    assert (shapes["layers.1.mixer.q_norm.weight"], shapes["layers.1.mixer.k_norm.weight"]) == ((48,), (16,))


@pytest.mark.parametrize(
    ("changes", "rotary_dim"),
    [
        ({}, 4),
        ({"rotary_dim": 8}, 8),
        ({"head_dim": 44, "rotary_dim": 30}, 30),  # 44 times 30/44 is less than 30
        ({"rotary_dim": None}, 8),
        ({"rotary_dim": None, "partial_rotary_factor": 0.75}, 6),
        ({"rotary_dim": None, "rope_parameters": {"partial_rotary_factor": 0.75}}, 6),
        ({"rope_parameters": {"rope_theta": 10.0, "partial_rotary_factor": 0.5}}, 4),
        ({"rope_parameters": {"rope_theta": 10.0}}, 4),
    ],
)
def test_the_rotated_share_of_a_head(changes: dict[str, Any], rotary_dim: int) -> None:
    assert {layer.mixer.rope.rotary_dim for layer in layers(config(**changes))} == {rotary_dim}


def test_what_the_release_says_beside_changes_nothing() -> None:
    published = config(
        use_qk_norm=True,
        qk_norm_type="per_layer",
        use_routing_bias=True,
        scoring_func="sigmoid",
        shared_intermediate_size=0,
        attn_type_list=[1, 1],
        use_mtp=True,
        num_mtp_modules=3,
        mtp_transformer_layers=1,
        router_jitter_noise=0.1,
        quantization_config=FP8,
    )
    assert layers(published) == layers(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_qk_norm": False}, "use_qk_norm is False but 'minimax_m2' supports True"),
        ({"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head' but 'minimax_m2' supports 'per_layer'"),
        ({"use_routing_bias": False}, "use_routing_bias is False but 'minimax_m2' supports True"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax' but 'minimax_m2' supports 'sigmoid'"),
        ({"shared_intermediate_size": 9}, "shared_intermediate_size is 9 but 'minimax_m2' supports 0"),
        ({"attn_type_list": [1, 0]}, r"attn_type_list is \[1, 0\] but needs 1 \(softmax attention\) for each of the 2 layers"),
        ({"attn_type_list": [1]}, r"attn_type_list is \[1\] but needs 1 \(softmax attention\) for each of the 2 layers"),
        ({"rope_parameters": {"partial_rotary_factor": 0.75}}, "rotary_dim is 4 but partial_rotary_factor makes it 6"),
        ({"rotary_dim": 10}, "rotary_dim is 10 but needs an even number of at most head_dim = 8"),
        ({"rotary_dim": 3}, "rotary_dim is 3 but needs an even number of at most head_dim = 8"),
        (
            {"rotary_dim": None, "partial_rotary_factor": 0.4},
            "partial_rotary_factor is 0.4, which makes 3 of 8 entries rotate, but they go in pairs",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method is 'gptq' but 'minimax_m2' supports 'fp8'"),
        ({"num_experts_per_tok": 6}, "num_experts_per_tok is 6 but a token chooses among 5 of 5 experts"),
        ({"sliding_window": 7}, "unknown key 'sliding_window'"),
    ],
)
def test_what_is_wrong_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        layers(config(**changes))


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config())
    published, held = (layout.leaves(blueprint.parameters()) for layout in blueprint.layouts)

    def beside_attention(names: Any) -> set[str]:
        inner = {name.removeprefix("model.layers.1.") for name in names if name.startswith("model.layers.1.")}
        return {name for name in inner if not name.startswith("self_attn.") and "layernorm" not in name}

    experts = {f"experts.{e}.{name}.weight" for e in range(5) for name in ("w1", "w2", "w3")}
    assert beside_attention(published) == {
        f"block_sparse_moe.{name}" for name in ("gate.weight", "e_score_correction_bias", *experts)
    }
    assert beside_attention(held) == {
        f"mlp.{name}" for name in ("gate.weight", "e_score_correction_bias", "experts.gate_up_proj", "experts.down_proj")
    }
    first, second, third = (f"model.layers.1.block_sparse_moe.experts.4.{name}.weight" for name in ("w1", "w2", "w3"))
    assert (published[first].shape, published[second].shape, published[third].shape) == ((12, 20), (20, 12), (12, 20))


def test_the_gate_is_w1_and_the_up_projection_w3() -> None:
    sources: Any = refimpl.blueprint(config()).layouts[0].sources
    names = {name: sources[f"layers.0.mlp.experts.{name}.weight"].sources[2].name for name in ("gate_proj", "up_proj")}
    prefix = "model.layers.0.block_sparse_moe.experts.2"
    assert names == {"gate_proj": f"{prefix}.w1.weight", "up_proj": f"{prefix}.w3.weight"}


def test_parameters_of_the_release() -> None:
    blueprint = refimpl.blueprint("MiniMaxAI/MiniMax-M2")
    assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (228_689_748_992, 11_030_537_216)
