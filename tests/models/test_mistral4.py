"""What Mistral 4 reads from a config.json, and the names of its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import LatentAttention, LogFloor, SoftmaxTopK
from tests.tiny import without

ROPE = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "llama_4_scaling_beta": 0.3,
    "partial_rotary_factor": 0.25,
}
CONFIG = {
    "model_type": "mistral4",
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 26,
    "moe_intermediate_size": 11,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "q_lora_rank": 14,
    "kv_lora_rank": 9,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "rope_parameters": ROPE,
}


def config(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


def rope(**changes: Any) -> dict[str, Any]:
    return config(rope_parameters={**ROPE, **changes})


def mixer(values: dict[str, Any]) -> LatentAttention:
    found = refimpl.blueprint(values).layers[0].mixer
    assert isinstance(found, LatentAttention)
    return found


def test_defaults_are_those_of_the_class() -> None:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "n_routed_experts")
    kept = {key: CONFIG[key] for key in ("model_type", *sizes, "num_hidden_layers", "num_attention_heads")}
    blueprint = refimpl.blueprint(kept)
    read, mixture = mixer(kept), blueprint.layers[0].mlp
    assert (read.q_lora_rank, read.kv_lora_rank, read.nope_head_dim, read.rope_head_dim, read.v_head_dim) == (
        *(1024, 256, 64),
        *(64, 128),
    )
    assert (read.bias, read.rope.interleaved, read.rope.scaling.factor) == (False, True, 128.0)  # type: ignore[union-attr]
    assert read.temperature == LogFloor(scale=0.1, floor=8192, offset=0)
    assert read.scale == pytest.approx(128**-0.5 * (1 + 0.1 * np.log(128)) ** 2, rel=1e-15)
    assert mixture.router == SoftmaxTopK(hidden_size=20, experts=6, top_k=4, renormalise=True)  # type: ignore[attr-defined]
    assert (blueprint.final_norm.eps, blueprint.head.tied) == (1e-6, False)


def test_null_is_a_query_without_a_latent() -> None:
    assert mixer(config(q_lora_rank=None)).q_lora_rank is None


def test_the_norms_between_the_projections_keep_their_eps() -> None:
    assert mixer(config(rms_norm_eps=0.5)).norm_eps == 1e-6


@pytest.mark.parametrize(
    ("keys", "cos", "softmax"),
    [
        ({}, 1 + 0.1 * np.log(4), 1.0),
        ({"attention_factor": 1.0}, 1.0, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0, (1 + 0.1 * np.log(4)) ** 2),
        ({"mscale_all_dim": 0.5}, 1 + 0.1 * np.log(4), (1 + 0.05 * np.log(4)) ** 2),
        ({"attention_factor": 1.0, "mscale_all_dim": 0.5}, 1.0, (1 + 0.05 * np.log(4)) ** 2),
        ({"mscale": 2.0, "mscale_all_dim": 0.0}, 1 + 0.1 * np.log(4), 1.0),
        ({"factor": 0.5, "mscale_all_dim": 1.0}, 1.0, 1.0),
    ],
)
def test_the_two_factors_of_yarn(keys: dict[str, float], cos: float, softmax: float) -> None:
    read = mixer(rope(**keys))
    assert read.rope is not None
    assert read.rope.attention_factor == pytest.approx(cos, rel=1e-15)
    assert read.scale == pytest.approx(16**-0.5 * softmax, rel=1e-15)


def test_the_temperature_is_made_of_rotary_keys() -> None:
    values = config(rope_parameters=without({**ROPE, "max_position_embeddings": 99}, "original_max_position_embeddings"))
    assert mixer(config()).temperature == LogFloor(scale=0.3, floor=16, offset=0)
    assert mixer({**values, "max_position_embeddings": 64}).temperature == LogFloor(scale=0.3, floor=64, offset=0)


def test_the_widths_say_what_is_rotated() -> None:
    read = mixer(config(rope_parameters=without(ROPE, "partial_rotary_factor")))
    assert read == mixer(CONFIG)
    assert read.rope is not None
    assert read.rope.rotary_dim == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (config(n_group=2), "n_group is 2 but 'mistral4' supports 1"),
        (config(topk_group=2), "topk_group is 2 but 'mistral4' supports 1"),
        (config(routed_scaling_factor=2.5), "routed_scaling_factor is 2.5 but 'mistral4' supports 1.0"),
        (config(num_key_value_heads=1), "num_key_value_heads is 1 but latent attention has as many as"),
        (config(num_experts_per_tok=7), "num_experts_per_tok is 7 but a token chooses among 6 of 6 experts"),
        (config(hidden_act="relu"), "hidden_act is 'relu' but 'mistral4' supports 'silu'"),
        (config(scoring_func="softmax"), "unknown key 'scoring_func'"),
        (config(n_shared_experts=-1), "n_shared_experts is -1 but needs a number of at least 0"),
        (rope(rope_type="default"), "unknown key 'factor'"),
        (config(rope_parameters={"rope_theta": 100.0}), "rope_type is None but 'mistral4' supports 'yarn'"),
        (rope(partial_rotary_factor=0.5), "partial_rotary_factor makes 8 of 16 entries rotate but qk_rope_head_dim is 4"),
        (rope(llama_4_scaling_beta=None), "llama_4_scaling_beta is None but needs a number"),
        (
            config(rope_parameters=without(ROPE, "llama_4_scaling_beta")),
            "key 'llama_4_scaling_beta' is missing and 'mistral4' needs it",
        ),
        (rope(short_factor=[1.0]), "unknown key 'short_factor'"),
    ],
)
def test_what_is_wrong_is_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        refimpl.blueprint(values)


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config(first_k_dense_replace=1))
    held, own = (layout.leaves(blueprint.parameters()) for layout in blueprint.layouts)
    attention = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
    for leaves in (own, held):
        assert {f"model.layers.0.self_attn.{name}.weight" for name in attention} == {
            name for name in leaves if name.startswith("model.layers.0.self_attn.")
        }
        assert "model.layers.1.mlp.gate.weight" in leaves
    assert own["model.layers.1.mlp.experts.5.up_proj.weight"].shape == (11, 20)
    assert held["model.layers.1.mlp.experts.gate_up_proj"].shape == (6, 22, 20)


def test_it_is_mistral_large_3_under_other_keys() -> None:
    """The same blocks come out of both forms, where neither has a factor."""
    release: Any = refimpl.blueprint("mistralai/Mistral-Large-3-675B-Instruct-2512")
    yarn = {"factor": 36.0, "original_max_position_embeddings": 8192, "attention_factor": 1.0, "llama_4_scaling_beta": 0.1}
    same: Any = refimpl.blueprint(
        {
            "model_type": "mistral4",
            "vocab_size": 131072,
            "hidden_size": 7168,
            "intermediate_size": 16384,
            "moe_intermediate_size": 4096,
            "n_routed_experts": 128,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "first_k_dense_replace": 3,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **yarn},
        }
    )
    assert same.layers == release.layers
    assert (same.embedding, same.final_norm, same.head) == (release.embedding, release.final_norm, release.head)
