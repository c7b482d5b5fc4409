"""What Grok 2.5 reads from a configuration, and the names of its tensors in both layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import GatedMLP, GrokYarn, Layer, LogLength, SoftcappedSoftmax, SoftmaxTopK, ThetaScaled
from refimpl.checkpoint import CheckpointError, save_checkpoint
from refimpl.lint import lint
from refimpl.releases import release
from tests.tiny import tokens, without

GROK = {
    "model_type": "git",
    "architectures": ["Grok1ForCausalLM"],
    "vocab_size": 47,
    "hidden_size": 20,
    "intermediate_size": 28,
    "moe_intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "residual_moe": True,
    "embedding_multiplier_scale": 4.5,
    "output_multiplier_scale": 0.5,
    "rms_norm_eps": 1e-5,
    "final_logit_softcapping": 50,
    "attn_logit_softcapping": 20.0,
    "router_logit_softcapping": 10.0,
    "attn_temperature_len": 16,
    "sliding_window_size": -1,
    "global_attn_every_n": 1,
    "max_position_embeddings": 512,
    "rope_theta": 1000,
    "rope_type": "original",
    "original_max_position_embeddings": 64,
    "scaling_factor": 4.0,
    "extrapolation_factor": 1.0,
    "attn_factor": 1.0,
    "beta_fast": 8,
    "beta_slow": 1,
}
EXPERTS = "model.layers.1.block_sparse_moe.experts"
WEIGHTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def grok(**changes: Any) -> dict[str, Any]:
    return {**GROK, **changes}


def layer(config: dict[str, Any]) -> Layer:
    return refimpl.blueprint(config).layers[0]


class TestArchitecture:
    @pytest.mark.parametrize("classes", [["Grok1ForCausalLM"], ["Grok1ModelForCausalLM"]])
    def test_the_classes_of_the_engine(self, classes: list) -> None:
        assert refimpl.blueprint(grok(architectures=classes)).architecture == "grok"

    @pytest.mark.parametrize("classes", [["GitForCausalLM"], [], None])
    def test_another_model_of_this_model_type_is_one_sentence(self, classes: list | None) -> None:
        sentence = "^config: architectures is .* but model_type 'git' needs Grok1ForCausalLM or Grok1ModelForCausalLM$"
        with pytest.raises(ValueError, match=sentence):
            refimpl.blueprint(grok(architectures=classes))
        with pytest.raises(ValueError, match=sentence):
            refimpl.blueprint(without(GROK, "architectures"))

    def test_the_release(self) -> None:
        published, blueprint = release("xai-org/grok-2"), refimpl.blueprint("xai-org/grok-2")
        assert blueprint.num_parameters() == published["parameters"]["total"] == 269_515_497_472
        assert blueprint.num_active_parameters() == published["parameters"]["active"] == 114_896_674_816
        assert {finding.kind for finding in lint(published["config"])} == {"used", "default", "ignored"}


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "num_local_experts",
            "num_experts_per_tok",
            "rms_norm_eps",
            "embedding_multiplier_scale",
            "output_multiplier_scale",
        ],
    )
    def test_a_missing_key_is_named(self, key: str) -> None:
        with pytest.raises(ValueError, match=f"^config: key '{key}' is missing and 'git' needs it"):
            refimpl.blueprint(without(GROK, key))

    def test_defaults_are_those_of_the_engine(self) -> None:
        keys = ["head_dim", "attn_logit_softcapping", "router_logit_softcapping", "final_logit_softcapping", "rope_theta"]
        blueprint = refimpl.blueprint(without(GROK, *keys, "attn_temperature_len", "residual_moe", "moe_intermediate_size"))
        mixer, mlp = blueprint.layers[0].mixer, blueprint.layers[0].mlp
        assert (mixer.head_dim, mixer.scale, mixer.softcap, mixer.temperature) == (128, 128**-0.5, 30.0, None)
        assert (mixer.rope.theta, mixer.rope.rotary_dim, mixer.rope.scaling) == (1e4, 128, None)
        assert (mlp.router.softcap, mlp.experts.intermediate_size, mlp.experts.activation) == (30.0, 28, "gelu")
        assert (mlp.shared, mlp.factor, blueprint.head.softcap) == (None, None, None)

    def test_both_branches_take_the_width_and_the_activation_that_are_theirs(self) -> None:
        mlp = layer(grok(hidden_act="gelu_new")).mlp
        assert mlp.shared == GatedMLP(hidden_size=20, intermediate_size=28, activation="gelu_tanh")
        assert (mlp.experts.intermediate_size, mlp.experts.activation, mlp.factor) == (12, "gelu_tanh", 2**-0.5)

    @pytest.mark.parametrize("value", [0, 0.0, -1.0])
    def test_caps_of_zero_or_less_are_none(self, value: float) -> None:
        keys = dict.fromkeys(("attn_logit_softcapping", "router_logit_softcapping", "final_logit_softcapping"), value)
        blueprint = refimpl.blueprint(grok(**keys))
        assert (blueprint.layers[0].mixer.softcap, blueprint.head.softcap) == (None, None)
        assert blueprint.layers[0].mlp.router == SoftmaxTopK(hidden_size=20, experts=3, top_k=2, renormalise=False)

    def test_caps(self) -> None:
        blueprint = refimpl.blueprint(GROK)
        assert (blueprint.layers[0].mixer.softcap, blueprint.head.softcap, blueprint.head.scale) == (20.0, 50.0, 0.5)
        assert blueprint.layers[0].mlp.router == SoftcappedSoftmax(hidden_size=20, experts=3, top_k=2, softcap=10.0)

    @pytest.mark.parametrize(("value", "length"), [(2, 2), (1024, 1024), (0, None), (-1, None)])
    def test_temperature(self, value: int, length: int | None) -> None:
        expected = None if length is None else LogLength(length=length)
        assert layer(grok(attn_temperature_len=value)).mixer.temperature == expected

    def test_theta_is_a_whole_number(self) -> None:
        assert layer(grok(rope_theta=1000.9)).mixer.rope.theta == 1000.0

    @pytest.mark.parametrize("kind", [None, "", "original"])
    def test_without_scaling_its_keys_mean_nothing(self, kind: str | None) -> None:
        keys = ("original_max_position_embeddings", "scaling_factor", "extrapolation_factor", "beta_fast", "beta_slow")
        assert layer(grok(rope_type=kind, **dict.fromkeys(keys, 3))).mixer.rope.scaling is None
        assert layer(without(grok(rope_type=kind), *keys, "attn_factor")).mixer.rope.scaling is None

    @pytest.mark.parametrize(("kind", "blend"), [("yarn", "linear"), ("yarn_linear", "linear"), ("yarn_log", "log")])
    def test_yarn(self, kind: str, blend: Any) -> None:
        numbers = {"original_max_position_embeddings": 64, "beta_fast": 8.0, "beta_slow": 1.0}
        expected = GrokYarn(factor=4.0, **numbers, extrapolation_factor=0.5, blend=blend)
        assert layer(grok(rope_type=kind, extrapolation_factor=0.5)).mixer.rope.scaling == expected
        absent = layer(without(grok(rope_type=kind), "beta_fast", "beta_slow", "extrapolation_factor")).mixer.rope.scaling
        assert (absent.beta_fast, absent.beta_slow, absent.extrapolation_factor) == (32.0, 1.0, 1.0)

    def test_theta_scale(self) -> None:
        scaling = layer(grok(rope_type="theta_scale")).mixer.rope.scaling
        assert scaling == ThetaScaled(factor=4.0, original_max_position_embeddings=64)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"sliding_window_size": 5}, "sliding_window_size is 5 but only -1 is supported"),
            ({"global_attn_every_n": 2}, "global_attn_every_n is 2 but only 1 is supported"),
            ({"rope_rotate_half_dims": True}, "rope_rotate_half_dims is True but only False is supported"),
            ({"attn_logit_softcapping_method": "sigmoid"}, "attn_logit_softcapping_method is 'sigmoid' but only 'tanh' is"),
            ({"tie_word_embeddings": True}, "tie_word_embeddings is True but only False is supported"),
            ({"rope_type": "linear"}, "rope_type is 'linear' but must be one of 'original', 'yarn', 'yarn_linear', 'yarn_log'"),
            ({"rope_type": "yarn", "scaling_factor": 0.0}, "scaling_factor is 0.0 but needs a positive number"),
            ({"rope_type": "yarn", "beta_slow": 0}, "beta_slow is 0.0 but needs a positive number"),
            (
                {"rope_type": "yarn", "extrapolation_factor": -1.0},
                "extrapolation_factor is -1.0 but needs a number of at least 0",
            ),
            (
                {"rope_type": "theta_scale", "original_max_position_embeddings": 6},
                "original_max_position_embeddings is 6 but needs a number of at least 7",
            ),
            ({"rope_theta": 1.5}, "rope_theta is 1.0 but needs a number above 1"),
            ({"hidden_act": "silu"}, "hidden_act is 'silu' but 'git' supports 'gelu', 'gelu_new', 'gelu_pytorch_tanh'"),
            ({"attn_temperature_len": 1}, "attn_temperature_len is 1 but needs a number of at least 2"),
            ({"num_experts_per_tok": 4}, "num_experts_per_tok is 4 but num_local_experts is 3"),
            ({"num_key_value_heads": 4}, "num_attention_heads is 6, which num_key_value_heads = 4 does not divide"),
            ({"head_dim": 7}, "head_dim is 7 but needs an even number, for its entries are rotated in pairs"),
            ({"attn_output_multiplier": 0.5}, r"unknown key 'attn_output_multiplier' \(value 0.5\) for 'git'"),
        ],
    )
    def test_what_is_not_supported_is_one_sentence(self, changes: dict, sentence: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {sentence}"):
            refimpl.blueprint(grok(**changes))

    @pytest.mark.parametrize("key", ["original_max_position_embeddings", "scaling_factor"])
    @pytest.mark.parametrize("kind", ["yarn", "yarn_log", "theta_scale"])
    def test_a_scaling_needs_its_numbers(self, kind: str, key: str) -> None:
        with pytest.raises(ValueError, match=f"^config: key '{key}' is missing"):
            refimpl.blueprint(without(grok(rope_type=kind), key))


def stored(ranks: int | None) -> dict[str, np.ndarray]:
    """The tensors of a model with random weights on disk, the experts split over `ranks`."""
    model = refimpl.init(GROK, seed=3)
    (layout,) = model.blueprint.layouts
    if ranks is not None:
        names = [name for name in layout.leaves(model.blueprint.parameters()) if ".experts." in name]
        layout = layout.split({name: tuple(f"{name}@TP-{rank:03d}" for rank in range(ranks)) for name in names})
    return layout.write(model.weights)


class TestOnDisk:
    def test_names(self) -> None:
        parts = {
            **{f"self_attn.{name}_proj": () for name in "qkvo"},
            **{f"{name}_norm": () for name in ("pre_attn", "post_attn", "pre_moe", "post_moe")},
            **{f"mlp.{name}_proj": () for name in ("gate", "up", "down")},
            "block_sparse_moe.gate": (),
            **{f"block_sparse_moe.experts.{expert}.{name}": () for expert in range(3) for name in WEIGHTS},
        }
        names = {f"model.layers.{index}.{part}.weight" for index in range(2) for part in parts}
        assert stored(None).keys() == names | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}

    @pytest.mark.parametrize(("name", "axis"), [("w1", 0), ("w3", 0), ("w2", 1)])
    def test_ranks_split_the_width_of_an_expert(self, name: str, axis: int) -> None:
        whole = refimpl.init(GROK, seed=3).weights[f"layers.1.mlp.experts.{WEIGHTS[name]}.weight"][2]
        slices = [stored(4)[f"{EXPERTS}.2.{name}.weight@TP-{rank:03d}"] for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate(slices, axis), whole)

    def test_norms_keep_their_places(self) -> None:
        weights, tensors = refimpl.init(GROK, seed=3).weights, stored(None)
        names = {"mixer_norm": "pre_attn", "mixer_post_norm": "post_attn", "mlp_norm": "pre_moe", "mlp_post_norm": "post_moe"}
        for ours, theirs in names.items():
            np.testing.assert_array_equal(tensors[f"model.layers.1.{theirs}_norm.weight"], weights[f"layers.1.{ours}.weight"])

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("ranks", [None, 1, 2, 3, 6, 12])
    def test_any_number_of_ranks_is_read(self, tmp_path: Path, ranks: int | None, stream: bool) -> None:
        save_checkpoint(tmp_path, GROK, stored(ranks))
        expected, _ = refimpl.init(GROK, seed=3)(tokens(2, 7))
        logits, _ = refimpl.load(tmp_path, "float32", stream=stream)(tokens(2, 7))
        np.testing.assert_array_equal(logits, expected)

    def test_the_gate_may_be_stored_in_another_format(self, tmp_path: Path) -> None:
        tensors = {name: array.astype("float16") for name, array in stored(2).items()}
        for index in range(2):
            name = f"model.layers.{index}.block_sparse_moe.gate.weight"
            tensors[name] = tensors[name].astype("float32")
        save_checkpoint(tmp_path, GROK, tensors)
        assert np.isfinite(refimpl.load(tmp_path)(tokens(1, 3))[0]).all()

    def test_missing_last_ranks_are_an_error(self, tmp_path: Path) -> None:
        tensors = stored(4)
        tensors = {name: array for name, array in tensors.items() if not name.endswith(("@TP-002", "@TP-003"))}
        save_checkpoint(tmp_path, GROK, tensors)
        with pytest.raises(CheckpointError, match=r"w1.weight@TP-000' has shape \(3, 20\) but .* makes it \(6, 20\)"):
            refimpl.load(tmp_path)

    def test_an_unequal_share_is_one_sentence(self, tmp_path: Path) -> None:
        tensors = {name: array for name, array in stored(6).items() if not name.endswith("@TP-005")}
        save_checkpoint(tmp_path, GROK, tensors)
        with pytest.raises(CheckpointError, match=f"^{tmp_path}: storage: 5 ranks cannot share 12 entries of a weight equally"):
            refimpl.load(tmp_path)

    def test_a_split_dense_weight_is_no_layout_of_this_model(self, tmp_path: Path) -> None:
        tensors = stored(2)
        name = "model.layers.0.mlp.up_proj.weight"
        whole = tensors.pop(name)
        tensors |= {f"{name}@TP-{rank:03d}": part for rank, part in enumerate(np.split(whole, 2))}
        save_checkpoint(tmp_path, GROK, tensors)
        with pytest.raises(CheckpointError, match=f"tensor '{name}' is missing"):
            refimpl.load(tmp_path)
