"""What gpt-oss reads from a configuration, how it is stored, and what its releases count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import Attention, MoE, TopKSoftmax, Yarn
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import CheckpointError, save_checkpoint
from refimpl.lint import lint
from tests.tiny import tokens, without

GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 7,
    "rope_theta": 1000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "truncate": False},
}
QUANTISED = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
EXPERTS = "model.layers.0.mlp.experts"


def gpt_oss(**changes: Any) -> dict[str, Any]:
    return {**GPT_OSS, **changes}


def mixers(config: dict[str, Any]) -> list[Attention]:
    return [layer.mixer for layer in refimpl.blueprint(config).layers]


def moe(config: dict[str, Any]) -> MoE:
    (found,) = {layer.mlp for layer in refimpl.blueprint(config).layers}
    assert isinstance(found, MoE)
    return found


def meaning(blueprint: Blueprint) -> tuple:
    return blueprint.embedding, blueprint.layers, blueprint.final_norm, blueprint.head, blueprint.layouts


class TestAttention:
    def test_every_head_has_a_sink_and_every_projection_a_bias(self) -> None:
        shapes = refimpl.blueprint(gpt_oss()).parameters()
        sizes = {name: shapes[f"layers.2.mixer.{name}"] for name in ("sinks", *(f"{p}_proj.bias" for p in "qkvo"))}
        assert sizes == {
            "sinks": (6,),
            "q_proj.bias": (60,),
            "k_proj.bias": (20,),
            "v_proj.bias": (20,),
            "o_proj.bias": (32,),
        }

    def test_biases_can_be_switched_off(self) -> None:
        assert {(m.qkv_bias, m.output_bias, m.sinks) for m in mixers(gpt_oss(attention_bias=False))} == {(False, False, True)}

    @pytest.mark.parametrize("absent", [{}, {"layer_types": None}])
    def test_every_other_layer_has_a_window_and_the_first_one_too(self, absent: dict) -> None:
        assert [mixer.window for mixer in mixers(gpt_oss(num_hidden_layers=4, **absent))] == [7, None, 7, None]

    def test_layer_types_say_which_layers_have_a_window(self) -> None:
        types = ["full_attention", "sliding_attention", "sliding_attention"]
        assert [mixer.window for mixer in mixers(gpt_oss(layer_types=types))] == [None, 7, 7]

    def test_a_window_that_is_needed_and_null_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^config: layer_types has sliding_attention, which needs sliding_window$"):
            refimpl.blueprint(gpt_oss(sliding_window=None))

    def test_a_null_head_dim_is_derived(self) -> None:
        values = gpt_oss(head_dim=None, num_attention_heads=4)
        assert {(mixer.head_dim, mixer.scale) for mixer in mixers(values)} == {(8, 8**-0.5)}

    def test_defaults_are_those_of_the_class(self) -> None:
        absent = ("head_dim", "num_key_value_heads", "sliding_window", "rope_theta")
        found = mixers(without(gpt_oss(num_attention_heads=16), *absent))
        assert {(mixer.head_dim, mixer.kv_heads, mixer.rope.theta) for mixer in found} == {(64, 8, 150000.0)}
        assert [mixer.window for mixer in found] == [128, None, 128]


class TestRotation:
    CLASS = Yarn(
        factor=32.0,
        original_max_position_embeddings=4096,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
        attention_factor=0.1 * math.log(32) + 1,
    )

    @pytest.mark.parametrize(
        "keys", [{}, {"rope_scaling": None}, {"rope_scaling": {}}, {"rope_parameters": None}, {"rope_theta": 500.0}]
    )
    def test_without_scaling_it_is_the_yarn_of_the_class(self, keys: dict) -> None:
        values = {**without(gpt_oss(), "rope_scaling", "rope_theta"), **keys}
        rope = mixers(values)[0].rope
        assert rope.scaling == self.CLASS
        assert rope.theta == keys.get("rope_theta", 150000.0)

    @pytest.mark.parametrize(
        "keys",
        [
            {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}},
            {"rope_parameters": {"rope_theta": 9.0}},
            {"rope_parameters": {}, "rope_theta": 9.0},
            {"rope_scaling": {"type": "default"}, "rope_theta": 9.0},
        ],
    )
    def test_no_scaling_must_be_said(self, keys: dict) -> None:
        rope = mixers({**without(gpt_oss(), "rope_scaling", "rope_theta"), **keys})[0].rope
        assert (rope.scaling, rope.theta) == (None, 9.0)

    def test_a_scaling_of_the_file_inherits_nothing_from_the_class(self) -> None:
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
        assert mixers(gpt_oss(rope_scaling=scaling))[0].rope.scaling.truncate is True

    def test_the_release(self) -> None:
        assert {mixer.rope.scaling for mixer in mixers(refimpl.api.read_config("openai/gpt-oss-20b"))} == {self.CLASS}


class TestExperts:
    def test_router_and_experts(self) -> None:
        found = moe(gpt_oss(swiglu_alpha=1.5, swiglu_limit=3))
        assert found.router == TopKSoftmax(hidden_size=32, experts=5, top_k=2, bias=True)
        experts = found.experts
        assert (experts.activation, experts.alpha, experts.limit, experts.bias) == ("clamped_swiglu", 1.5, 3.0, True)
        assert (found.shared, found.factor, experts.scale_input) == (None, None, False)

    def test_defaults_are_those_of_the_class(self) -> None:
        found = moe(without(gpt_oss(), "num_experts_per_tok"))
        assert (found.router.top_k, found.experts.alpha, found.experts.limit) == (4, 1.702, 7.0)

    def test_hidden_act_says_nothing(self) -> None:
        assert meaning(refimpl.blueprint(gpt_oss(hidden_act="gelu"))) == meaning(refimpl.blueprint(gpt_oss()))

    def test_the_keys_of_the_hub(self) -> None:
        keys = {"experts_per_token": 2, "initial_context_length": 4096}
        assert meaning(refimpl.blueprint(gpt_oss(**keys))) == meaning(refimpl.blueprint(gpt_oss()))

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"experts_per_token": 3}, "experts_per_token is 3 but num_experts_per_tok is 2; one of them must go"),
            ({"num_experts_per_tok": 6}, "num_experts_per_tok is 6 but num_local_experts is 5"),
            ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0 but needs a positive integer"),
            ({"num_local_experts": 0}, "num_local_experts is 0 but needs a positive integer"),
            ({"swiglu_limit": 0.0}, "swiglu_limit is 0.0 but needs a positive number"),
            ({"swiglu_limit": None}, "swiglu_limit is None but needs a number"),
            ({"swiglu_alpha": "1"}, "swiglu_alpha is '1' but needs a number"),
            ({"num_experts": 5}, "unknown key 'num_experts' "),
        ],
    )
    def test_a_wrong_value_is_one_sentence(self, keys: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {message}"):
            refimpl.blueprint(gpt_oss(**keys))

    def test_the_number_of_experts_is_required(self) -> None:
        with pytest.raises(ValueError, match=r"^config: key 'num_local_experts' is missing"):
            refimpl.blueprint(without(gpt_oss(), "num_local_experts"))

    def test_eps_has_a_default_of_its_own(self) -> None:
        blueprint = refimpl.blueprint(gpt_oss())
        layer = blueprint.layers[0]
        assert {layer.mixer_norm.eps, layer.mlp_norm.eps, blueprint.final_norm.eps} == {1e-5}


class TestQuantisation:
    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"quant_method": "fp8"}, "quant_method is 'fp8' but 'gpt_oss' is stored plain or as 'mxfp4'"),
            ({"modules_to_not_convert": []}, "key 'quant_method' is missing and 'gpt_oss' needs it"),
            ({"quant_method": "mxfp4", "block_size": 16}, "unknown key 'block_size' "),
        ],
    )
    def test_another_method_is_one_sentence(self, keys: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {message}"):
            refimpl.blueprint(gpt_oss(quantization_config=keys))

    @pytest.mark.parametrize("key", ["hidden_size", "intermediate_size"])
    def test_sizes_that_blocks_do_not_divide(self, key: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {key} is 40 but mxfp4 needs a multiple of 32$"):
            refimpl.blueprint(gpt_oss(**QUANTISED, **{key: 40}))
        refimpl.blueprint(gpt_oss(**{key: 40}))

    def test_it_changes_no_parameter(self) -> None:
        plain, quantised = refimpl.blueprint(gpt_oss()), refimpl.blueprint(gpt_oss(**QUANTISED))
        assert plain.parameters() == quantised.parameters()
        assert plain.layouts == quantised.layouts[1:]

    @pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "openai/gpt-oss-120b"])
    def test_lint_says_what_is_read_of_a_release(self, name: str) -> None:
        kinds = {finding.key: finding.kind for finding in lint(refimpl.api.read_config(name))}
        assert (kinds["quantization_config.quant_method"], kinds["swiglu_limit"], kinds["experts_per_token"]) == ("used",) * 3
        assert (kinds["swiglu_alpha"], kinds["hidden_act"], kinds["initial_context_length"]) == ("default", *("ignored",) * 2)
        assert kinds["quantization_config.modules_to_not_convert"] == "ignored"
        assert "error" not in kinds.values()


class TestStorage:
    def stored(self, config: dict[str, Any]) -> dict[str, np.ndarray]:
        """The tensors of a random model."""
        model = refimpl.init(config, seed=2)
        return model.blueprint.layouts[0].write(model.weights)

    def test_names_on_disk(self) -> None:
        blueprint = refimpl.blueprint(gpt_oss(num_hidden_layers=1))
        leaves = blueprint.layouts[0].leaves(blueprint.parameters())
        attention = [f"self_attn.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")]
        experts = [f"mlp.experts.{name}{kind}" for name in ("gate_up_proj", "down_proj") for kind in ("", "_bias")]
        norms = [f"{name}_layernorm.weight" for name in ("input", "post_attention")]
        inside = [*attention, "self_attn.sinks", *norms, "mlp.router.weight", "mlp.router.bias", *experts]
        ends = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
        assert sorted(leaves) == sorted([*(f"model.layers.0.{name}" for name in inside), *ends])
        shapes = {name: leaves[f"{EXPERTS}.{name}"].shape for name in ("gate_up_proj", "gate_up_proj_bias", "down_proj")}
        assert shapes == {"gate_up_proj": (5, 32, 128), "gate_up_proj_bias": (5, 128), "down_proj": (5, 64, 32)}

    def test_gate_and_up_alternate(self) -> None:
        model, tensors = refimpl.init(gpt_oss(), seed=2), self.stored(gpt_oss())
        for first, name in enumerate(("gate_proj", "up_proj")):
            weight, bias = (model.weights[f"layers.0.mlp.experts.{name}.{kind}"] for kind in ("weight", "bias"))
            np.testing.assert_array_equal(tensors[f"{EXPERTS}.gate_up_proj"][..., first::2], weight.swapaxes(1, 2))
            np.testing.assert_array_equal(tensors[f"{EXPERTS}.gate_up_proj_bias"][..., first::2], bias)

    @pytest.mark.parametrize("quantised", [{}, QUANTISED])
    @pytest.mark.parametrize("stream", [False, True])
    def test_plain_tensors_are_read_whatever_the_configuration_says(
        self, tmp_path: Path, quantised: dict, stream: bool
    ) -> None:
        save_checkpoint(tmp_path, gpt_oss(**quantised), self.stored(gpt_oss()))
        expected, _ = refimpl.init(gpt_oss(), seed=2)(tokens(2, 9))
        np.testing.assert_array_equal(refimpl.load(tmp_path, "float32", stream=stream)(tokens(2, 9))[0], expected)

    def test_blocks_without_the_configuration_are_not_guessed(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path, gpt_oss(), self.stored(gpt_oss(**QUANTISED)))
        with pytest.raises(CheckpointError, match=r"6 tensors are \('model.layers.0.mlp.experts.gate_up_proj', .*\) missing$"):
            refimpl.load(tmp_path)

    def test_a_layer_of_each_form_is_an_error(self, tmp_path: Path) -> None:
        plain, quantised = self.stored(gpt_oss()), self.stored(gpt_oss(**QUANTISED))
        mixed = {name: array for name, array in quantised.items() if not name.startswith(f"{EXPERTS}.gate_up_proj_")}
        mixed |= {name: plain[name] for name in (f"{EXPERTS}.gate_up_proj", f"{EXPERTS}.gate_up_proj_bias")}
        save_checkpoint(tmp_path, gpt_oss(**QUANTISED), mixed)
        with pytest.raises(
            CheckpointError, match=r"2 tensors are \('.*gate_up_proj_blocks', '.*gate_up_proj_scales'\) missing$"
        ):
            refimpl.load(tmp_path)

    def test_both_forms_at_once_are_an_error(self, tmp_path: Path) -> None:
        both = {**self.stored(gpt_oss()), **self.stored(gpt_oss(**QUANTISED))}
        save_checkpoint(tmp_path, gpt_oss(**QUANTISED), both)
        with pytest.raises(CheckpointError, match="not part of 'gpt_oss'"):
            refimpl.load(tmp_path)

    def test_blocks_of_another_format_are_an_error(self, tmp_path: Path) -> None:
        tensors, name = self.stored(gpt_oss(**QUANTISED)), f"{EXPERTS}.down_proj_scales"
        tensors[name] = tensors[name].astype(np.float32)
        save_checkpoint(tmp_path, gpt_oss(**QUANTISED), tensors)
        with pytest.raises(CheckpointError, match=r"down_proj_scales' is stored as F32, but 'gpt_oss' is read from U8$"):
            refimpl.load(tmp_path)


class TestReleases:
    @pytest.mark.parametrize(
        ("name", "total", "active", "published"),
        [
            ("openai/gpt-oss-20b", 20_914_757_184, 4_187_440_704, 3_608_307_264),
            ("openai/gpt-oss-120b", 116_829_156_672, 5_711_982_912, 5_132_849_472),
        ],
    )
    def test_counts(self, name: str, total: int, active: int, published: int) -> None:
        """The model card's active parameters leave the embedding out: 3.61 and 5.13 billion."""
        blueprint = refimpl.blueprint(name)
        assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (total, active)
        assert blueprint.num_active_parameters() - blueprint.embedding.num_parameters() == published

    def test_half_of_the_layers_keep_their_window_alone(self) -> None:
        # Key and value, 8 heads of 64, 2 bytes: 2048 a token and layer.
        assert refimpl.blueprint("openai/gpt-oss-20b").cache_bytes(131072) == 12 * 2048 * (131072 + 128)
