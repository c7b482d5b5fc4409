"""Llama 4: what its configuration says, what its tensors are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import refimpl
from refimpl.blocks import GatedMLP, LogFloor, MoE, RMSNorm, TopKSigmoid
from refimpl.checkpoint import save_checkpoint

SIZES = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 14,
    "intermediate_size_mlp": 34,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 3,
    "num_experts_per_tok": 1,
    "rope_theta": 100.0,
}


def config(**changes: object) -> dict:
    return {"model_type": "llama4_text", **SIZES, **changes}


def without(*keys: str, **changes: object) -> dict:
    return {name: value for name, value in config(**changes).items() if name not in keys}


def multimodal(**text: object) -> dict:
    inner = config(**text)
    del inner["model_type"]
    return {"model_type": "llama4", "text_config": inner, "vision_config": {"hidden_size": 3}, "tie_word_embeddings": False}


def layers(values: dict) -> tuple:
    return refimpl.blueprint(values).layers


def mixers(**changes: object) -> list:
    return [layer.mixer for layer in layers(config(**changes))]


class TestPositions:
    @pytest.mark.parametrize("flags", [{}, {"no_rope_layers": []}, {"no_rope_layers": None}])
    def test_without_a_list_every_fourth_layer_has_none(self, flags: dict) -> None:
        assert [mixer.rope is not None for mixer in mixers(**flags)] == [True, True, True, False, True]

    def test_one_means_that_the_layer_rotates(self) -> None:
        found = mixers(no_rope_layers=[1, 0, 0, 1, 0], no_rope_layer_interval=1)
        assert [mixer.rope is not None for mixer in found] == [True, False, False, True, False]

    def test_the_interval_decides_without_a_list(self) -> None:
        found = mixers(no_rope_layers=[], no_rope_layer_interval=2)
        assert [mixer.rope is not None for mixer in found] == [True, False, True, False, True]

    @pytest.mark.parametrize("flags", [[1, 0], [1, 0, 2, 1, 0], [1, 0, "1", 1, 0], [1, 0, None, 1, 0]])
    def test_a_list_that_does_not_say_for_every_layer_is_one_sentence(self, flags: list) -> None:
        with pytest.raises(ValueError, match=r"^config: no_rope_layers is .* but needs 0 or 1 for each of the 5 layers$"):
            mixers(no_rope_layers=flags)

    def test_pairs_are_neighbours_and_the_base_is_half_a_million(self) -> None:
        ropes = {layer.mixer.rope for layer in layers(without("rope_theta"))} - {None}
        assert {(rope.interleaved, rope.theta, rope.rotary_dim) for rope in ropes} == {(True, 500000.0, 8)}

    def test_llama3_scaling_is_read(self) -> None:
        scaling = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
        rope = mixers(rope_scaling={**scaling, "original_max_position_embeddings": 32})[0].rope
        assert (rope.scaling.factor, rope.scaling.original_max_position_embeddings, rope.interleaved) == (16.0, 32, True)
        plain, scaled = mixers()[0].rope.frequencies("float64"), rope.frequencies("float64")
        assert np.isfinite(scaled).all()
        assert set((plain / scaled).round(12)) == {1.0, 16.0}


class TestAttention:
    def test_layers_that_rotate_are_chunked(self) -> None:
        found = mixers(no_rope_layers=[1, 0, 0, 1, 0], attention_chunk_size=9)
        assert [(mixer.chunk, mixer.window) for mixer in found] == [(9, None), (None,) * 2, (None,) * 2, (9, None), (None,) * 2]

    def test_the_chunk_of_the_class(self) -> None:
        assert [mixer.chunk for mixer in mixers()] == [8192, 8192, 8192, None, 8192]

    def test_a_chunk_of_null_is_full_attention(self) -> None:
        assert {mixer.chunk for mixer in mixers(attention_chunk_size=None)} == {None}

    def test_layer_types_decide_whatever_rotates(self) -> None:
        kinds = ["full_attention", "chunked_attention", "full_attention", "chunked_attention", "full_attention"]
        assert [mixer.chunk for mixer in mixers(layer_types=kinds, attention_chunk_size=9)] == [None, 9, None, 9, None]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"layer_types": ["full_attention"]}, "layer_types has 1 entries but num_hidden_layers is 5"),
            (
                {"layer_types": ["sliding_attention"] * 5},
                "layer_types has 'sliding_attention' but 'llama4_text' supports full_attention, chunked_attention",
            ),
            (
                {"layer_types": ["chunked_attention"] * 5, "attention_chunk_size": None},
                "layer_types has chunked_attention, which needs attention_chunk_size",
            ),
            ({"attention_chunk_size": 0}, "attention_chunk_size is 0 but needs a positive integer"),
        ],
    )
    def test_wrong_chunks_are_one_sentence(self, changes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {message}$"):
            mixers(**changes)

    def test_qk_norm_follows_the_rotation_and_has_no_weight(self) -> None:
        found = mixers(no_rope_layers=[1, 0, 1, 0, 0], rms_norm_eps=0.125)
        assert [mixer.qk_norm is not None for mixer in found] == [True, False, True, False, False]
        assert found[0].qk_norm == RMSNorm(size=8, eps=0.125, weightless=True)
        assert found[0].qk_norm_over == "rotated_head"
        assert not any("q_norm" in name for name in found[0].parameters())

    def test_qk_norm_may_be_switched_off(self) -> None:
        assert {mixer.qk_norm for mixer in mixers(use_qk_norm=False)} == {None}

    @pytest.mark.parametrize("tuning", [{}, {"attn_temperature_tuning": True}, {"attn_temperature_tuning": 4}])
    def test_only_layers_without_positions_have_a_temperature(self, tuning: dict) -> None:
        found = mixers(no_rope_layers=[1, 0, 1, 1, 0], **tuning)
        law = LogFloor(scale=0.1, floor=8192)
        assert [mixer.temperature for mixer in found] == [None, law, None, None, law]

    @pytest.mark.parametrize("value", [False, 0])
    def test_temperature_may_be_switched_off(self, value: object) -> None:
        assert {mixer.temperature for mixer in mixers(attn_temperature_tuning=value)} == {None}

    def test_the_constants_of_the_temperature(self) -> None:
        assert mixers(attn_scale=0.5, floor_scale=6)[3].temperature == LogFloor(scale=0.5, floor=6)

    @pytest.mark.parametrize(("key", "value"), [("floor_scale", 0), ("floor_scale", 2.5), ("attn_temperature_tuning", "yes")])
    def test_a_wrong_temperature_is_one_sentence(self, key: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: {key} is {value!r} but needs"):
            mixers(**{key: value})

    def test_widths_of_the_class(self) -> None:
        found = layers(without("head_dim", "num_key_value_heads", num_attention_heads=16))[0].mixer
        assert (found.head_dim, found.kv_heads, found.scale, found.qkv_bias) == (128, 8, 128**-0.5, False)
        assert mixers(head_dim=None)[0].head_dim == 24 // 6
        assert mixers(num_key_value_heads=None)[0].kv_heads == 6

    def test_biases_are_on_all_four_projections(self) -> None:
        shapes = mixers(attention_bias=True)[0].parameters()
        assert {name: shapes[f"{name}_proj.bias"] for name in "qkvo"} == {"q": (48,), "k": (16,), "v": (16,), "o": (24,)}


class TestExperts:
    def kinds(self, **changes: object) -> list[type]:
        return [type(layer.mlp) for layer in layers(config(**changes))]

    def test_every_layer_has_experts_by_default(self) -> None:
        assert self.kinds() == [MoE] * 5

    def test_every_nth_layer_from_the_nth(self) -> None:
        assert self.kinds(interleave_moe_layer_step=2) == [GatedMLP, MoE, GatedMLP, MoE, GatedMLP]

    def test_a_list_has_precedence(self) -> None:
        assert self.kinds(interleave_moe_layer_step=2, moe_layers=[0, 4]) == [MoE, GatedMLP, GatedMLP, GatedMLP, MoE]
        assert self.kinds(moe_layers=[]) == [GatedMLP] * 5

    @pytest.mark.parametrize("given", [[5], [-1], [True], ["0"], [0.0]])
    def test_wrong_indices_are_one_sentence(self, given: list) -> None:
        with pytest.raises(ValueError, match=r"^config: moe_layers is .* but needs indices of the 5 layers, from 0$"):
            self.kinds(moe_layers=given)

    def test_widths(self) -> None:
        dense, moe = (layer.mlp for layer in layers(config(interleave_moe_layer_step=2))[:2])
        assert dense.intermediate_size == 34
        assert (moe.experts.intermediate_size, moe.shared.intermediate_size, moe.experts.experts) == (14, 14, 3)

    def test_the_router_weighs_the_input(self) -> None:
        moe = layers(config(num_experts_per_tok=2))[0].mlp
        assert moe.router == TopKSigmoid(hidden_size=24, experts=3, top_k=2)
        assert moe.experts.scale_input
        assert not moe.shared_gate

    def test_the_class_has_one_expert_a_token(self) -> None:
        values = {key: value for key, value in config().items() if key != "num_experts_per_tok"}
        assert layers(values)[0].mlp.router.top_k == 1

    def test_more_experts_than_there_are(self) -> None:
        with pytest.raises(ValueError, match="num_experts_per_tok is 4"):
            self.kinds(num_experts_per_tok=4)

    def test_the_step_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match=r"^config: interleave_moe_layer_step is 0 but needs a positive integer$"):
            self.kinds(interleave_moe_layer_step=0)

    def test_keys_of_training_change_nothing(self) -> None:
        changes = {"router_jitter_noise": 0.5, "router_aux_loss_coef": 1.0, "output_router_logits": True}
        assert layers(config(**changes, for_llm_compressor=True)) == layers(config())


class TestNorms:
    def test_eps_reaches_every_one(self) -> None:
        for eps, values in ((0.25, config(rms_norm_eps=0.25)), (1e-5, config())):
            blueprint = refimpl.blueprint(values)
            norms = {norm for layer in blueprint.layers for norm in (layer.mixer_norm, layer.mlp_norm)}
            assert norms | {blueprint.final_norm} == {RMSNorm(size=24, eps=eps)}
            assert blueprint.layers[0].mixer.qk_norm.eps == eps


def names_of_a_model(prefix: str) -> dict[str, tuple[int, ...]]:
    attention = {"q_proj": (48, 24), "k_proj": (16, 24), "v_proj": (16, 24), "o_proj": (24, 48)}
    mlp = {"gate_proj": (1, 0), "up_proj": (1, 0), "down_proj": (0, 1)}
    found = {"model.embed_tokens.weight": (53, 24), "model.norm.weight": (24,), "lm_head.weight": (53, 24)}
    for layer in ("model.layers.0", "model.layers.1"):
        found |= {f"{layer}.self_attn.{name}.weight": shape for name, shape in attention.items()}
        found |= {f"{layer}.{name}.weight": (24,) for name in ("input_layernorm", "post_attention_layernorm")}
    dense, routed = "model.layers.0.feed_forward", "model.layers.1.feed_forward"
    found |= {f"{dense}.{name}.weight": ((24, 34)[a], (24, 34)[b]) for name, (a, b) in mlp.items()}
    found |= {f"{routed}.shared_expert.{name}.weight": ((24, 14)[a], (24, 14)[b]) for name, (a, b) in mlp.items()}
    found |= {f"{routed}.router.weight": (3, 24)}
    found |= {f"{routed}.experts.gate_up_proj": (3, 24, 28), f"{routed}.experts.down_proj": (3, 14, 24)}
    return {prefix + name: shape for name, shape in found.items()}


class TestNamesOnDisk:
    @pytest.mark.parametrize(("make", "prefix"), [(config, ""), (multimodal, "language_model.")])
    def test_all_of_them(self, make, prefix: str) -> None:
        blueprint = refimpl.blueprint(make(num_hidden_layers=2, interleave_moe_layer_step=2))
        leaves = blueprint.layouts[0].leaves(blueprint.parameters())
        assert {name: leaf.shape for name, leaf in leaves.items()} == names_of_a_model(prefix)

    def test_gate_and_up_are_halves_of_the_columns(self) -> None:
        model = refimpl.init(config(), dtype="float64")
        stored = model.blueprint.layouts[0].write(model.weights)["model.layers.2.feed_forward.experts.gate_up_proj"]
        for half, name in zip(np.split(stored, 2, axis=-1), ("gate", "up"), strict=True):
            assert np.array_equal(half.swapaxes(1, 2), model.weights[f"layers.2.mlp.experts.{name}_proj.weight"])

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_an_image_needs_is_left_alone(self, stream: bool, tmp_path: Path) -> None:
        model = refimpl.init(multimodal(), seed=3, dtype="float64")
        tensors = model.blueprint.layouts[0].write(model.weights)
        tensors["vision_model.patch_embedding.linear.weight"] = np.ones((3, 5))
        tensors["multi_modal_projector.linear_1.weight"] = np.ones((24, 3))
        save_checkpoint(tmp_path, multimodal(), tensors)
        tokens = np.arange(8).reshape(2, 4)
        assert np.array_equal(refimpl.load(tmp_path, stream=stream)(tokens)[0], model(tokens)[0])

    def test_the_text_part_is_the_text_model(self) -> None:
        assert layers(multimodal()) == layers(config())


class TestDecoding:
    @pytest.mark.parametrize("ring", [False, True])
    def test_across_the_ends_of_chunks(self, ring: bool) -> None:
        """Eight chunks of five tokens, one token at a time behind padding, equal the row alone at once."""
        changes = {"attention_chunk_size": 5, "floor_scale": 4, "attn_scale": 0.8}
        model = replace(refimpl.init(config(**changes), seed=1, dtype="float64"), ring=ring)
        tokens = np.random.default_rng(0).integers(0, 53, (1, 40))
        at_once, _ = model(tokens)
        padded = np.concatenate([np.zeros((1, 3), int), tokens], axis=1)
        mask = (np.arange(43) >= 3).astype(int)[None]
        cache, found = None, []
        for end in range(1, 44):
            logits, cache = model(padded[:, end - 1 : end], cache, attention_mask=mask[:, :end])
            found.append(logits)
        np.testing.assert_allclose(np.concatenate(found, axis=1)[:, 3:], at_once, rtol=0, atol=1e-12)
        held = {state["key"].shape[1] for state in cache.states}
        assert held == ({5, 43} if ring else {43})


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 107_769_861_120, 17_172_894_720),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 400_711_848_960, 17_184_691_200),
    ],
)
def test_parameters_of_the_releases(name: str, total: int, active: int) -> None:
    blueprint = refimpl.blueprint(name)
    assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (total, active)
