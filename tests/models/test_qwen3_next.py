"""What Qwen3-Next reads from a configuration, the names of its tensors, and its module for multi-token prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import Attention, GatedDeltaNet, GatedMLP, MoE, RMSNorm
from refimpl.checkpoint import save_checkpoint
from tests.tiny import tokens, without

QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 28,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 3,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 9,
    "shared_expert_intermediate_size": 11,
}
FULL, LINEAR = "full_attention", "linear_attention"


def config(**changes: Any) -> dict[str, Any]:
    return {**QWEN3_NEXT, **changes}


def layers(**changes: Any) -> Any:
    return refimpl.blueprint(config(**changes)).layers


def kinds(**changes: Any) -> str:
    """F or L for each layer."""
    return "".join("F" if isinstance(layer.mixer, Attention) else "L" for layer in layers(**changes))


def test_defaults_are_those_of_the_class() -> None:
    absent = [name for name in QWEN3_NEXT if name.startswith("linear_")]
    absent += ["head_dim", "num_key_value_heads", "num_experts_per_tok", "shared_expert_intermediate_size"]
    blueprint = refimpl.blueprint(without(config(num_experts=16), *absent))
    linear, full, moe = blueprint.layers[0].mixer, blueprint.layers[3].mixer, blueprint.layers[0].mlp
    assert linear == GatedDeltaNet(
        hidden_size=20, key_heads=16, value_heads=32, key_head_dim=128, value_head_dim=128, conv_width=4, norm_eps=1e-6
    )
    assert (full.head_dim, full.kv_heads, full.rope.rotary_dim, full.rope.theta, full.qkv_bias) == (256, 2, 64, 1e4, False)
    assert (moe.router.top_k, moe.router.renormalise, moe.shared.intermediate_size) == (10, True, 512)


def test_sizes_reach_the_blocks() -> None:
    linear = layers()[0].mixer
    assert (linear.key_heads, linear.value_heads, linear.key_head_dim, linear.value_head_dim) == (2, 6, 5, 7)
    assert linear.conv_width == 3
    full = layers()[3].mixer
    assert (full.heads, full.kv_heads, full.head_dim, full.scale) == (6, 3, 8, 8**-0.5)
    assert full.output_gate
    moe = layers()[0].mlp
    assert (moe.router.experts, moe.experts.intermediate_size, moe.shared.intermediate_size) == (5, 9, 11)
    assert moe.shared_gate


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "LLLF"),
        ({"full_attention_interval": 2}, "LFLF"),
        ({"full_attention_interval": 1}, "FFFF"),
        ({"full_attention_interval": 3}, "LLFL"),
        ({"layer_types": [FULL, LINEAR, LINEAR, FULL]}, "FLLF"),
        ({"layer_types": None}, "LLLF"),
        ({"num_hidden_layers": 9}, "LLLFLLLFL"),
    ],
)
def test_which_layers_are_full_attention(changes: dict[str, Any], expected: str) -> None:
    assert kinds(**changes) == expected


def test_every_norm_but_the_gated_one_is_zero_centred() -> None:
    blueprint = refimpl.blueprint(config(rms_norm_eps=0.5))
    norm = RMSNorm(size=20, eps=0.5, zero_centred=True)
    for layer in blueprint.layers:
        assert {layer.mixer_norm, layer.mlp_norm} == {norm}
    (module,) = blueprint.multi_token
    assert {blueprint.final_norm, module.enorm, module.hnorm, module.norm, module.layer.mixer_norm} == {norm}
    assert blueprint.layers[3].mixer.qk_norm == RMSNorm(size=8, eps=0.5, zero_centred=True)
    assert blueprint.layers[0].mixer.norm_eps == 0.5


@pytest.mark.parametrize(
    ("changes", "rotary_dim"),
    [
        ({}, 2),
        ({"partial_rotary_factor": 0.5}, 4),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "partial_rotary_factor": 0.75}}, 6),
        ({"rope_parameters": {"rope_theta": 10.0}}, 2),
    ],
)
def test_the_rotated_share_of_a_head(changes: dict[str, Any], rotary_dim: int) -> None:
    assert layers(**changes)[3].mixer.rope.rotary_dim == rotary_dim


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "EEEE"),
        ({"decoder_sparse_step": 2}, ".E.E"),
        ({"mlp_only_layers": [0, 3]}, ".EE."),
        ({"mlp_only_layers": None}, "EEEE"),
    ],
)
def test_which_layers_have_experts(changes: dict[str, Any], expected: str) -> None:
    found = layers(**changes)
    assert "".join("E" if isinstance(layer.mlp, MoE) else "." for layer in found) == expected
    assert {layer.mlp.intermediate_size for layer in found if isinstance(layer.mlp, GatedMLP)} <= {28}


def test_a_model_without_dense_layers_needs_no_width_for_them() -> None:
    assert len(refimpl.blueprint(without(config(), "intermediate_size")).layers) == 4
    with pytest.raises(ValueError, match=r"^config: key 'intermediate_size' is missing"):
        refimpl.blueprint(without(config(mlp_only_layers=[1]), "intermediate_size"))


def test_biases_are_on_full_attention_alone() -> None:
    names = [name for name in refimpl.blueprint(config(attention_bias=True)).parameters() if name.endswith(".bias")]
    own = [f"layers.3.mixer.{name}_proj.bias" for name in "qkvo"]
    assert names == [*own, *(name.replace("layers.3", "multi_token.0.layer") for name in own)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' but 'qwen3_next' supports 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window is true but 'qwen3_next' has no windows"),
        ({"linear_num_value_heads": 5}, "linear_num_value_heads is 5, which linear_num_key_heads = 2 does not divide"),
        ({"linear_conv_kernel_dim": 0}, "linear_conv_kernel_dim is 0 but needs a positive integer"),
        ({"full_attention_interval": 0}, "full_attention_interval is 0 but needs a positive integer"),
        ({"layer_types": [FULL] * 3}, "layer_types has 3 entries but num_hidden_layers is 4"),
        ({"layer_types": [FULL] * 3 + ["sliding_attention"]}, "layer_types has 'sliding_attention' but 'qwen3_next' supports"),
        ({"num_experts_per_tok": 6}, "num_experts_per_tok is 6 but a token chooses among 5 of 5 experts"),
        ({"num_nextn_predict_layers": 2}, "num_nextn_predict_layers is 2 but 'qwen3_next' has at most one module"),
        ({"linear_num_key_head": 2}, "unknown key 'linear_num_key_head' (value 2) for 'qwen3_next'; did you mean"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^config: ") as error:
        refimpl.blueprint(config(**changes))
    assert message in str(error.value)


LINEAR_TENSORS = {
    "in_proj_qkvz.weight": (104, 20),
    "in_proj_ba.weight": (12, 20),
    "conv1d.weight": (62, 1, 3),
    "A_log": (6,),
    "dt_bias": (6,),
    "norm.weight": (7,),
    "out_proj.weight": (20, 42),
}
FULL_TENSORS = {
    "q_proj.weight": (96, 20),
    "k_proj.weight": (24, 20),
    "v_proj.weight": (24, 20),
    "o_proj.weight": (20, 48),
    "q_norm.weight": (8,),
    "k_norm.weight": (8,),
}
BESIDE_THE_EXPERTS = {
    "input_layernorm.weight": (20,),
    "post_attention_layernorm.weight": (20,),
    "mlp.gate.weight": (5, 20),
    "mlp.shared_expert.gate_proj.weight": (11, 20),
    "mlp.shared_expert.up_proj.weight": (11, 20),
    "mlp.shared_expert.down_proj.weight": (20, 11),
    "mlp.shared_expert_gate.weight": (1, 20),
}
EXPERTS = [
    {
        f"mlp.experts.{expert}.{name}_proj.weight": shape
        for expert in range(5)
        for name, shape in (("gate", (9, 20)), ("up", (9, 20)), ("down", (20, 9)))
    },
    {"mlp.experts.gate_up_proj": (5, 18, 20), "mlp.experts.down_proj": (5, 20, 9)},
]
MODULE_TENSORS = {
    "mtp.pre_fc_norm_embedding.weight": (20,),
    "mtp.pre_fc_norm_hidden.weight": (20,),
    "mtp.fc.weight": (20, 40),
    "mtp.norm.weight": (20,),
}


@pytest.mark.parametrize("form", [0, 1], ids=["published", "held"])
def test_names_on_disk(form: int) -> None:
    blueprint = refimpl.blueprint(config())
    found = {name: leaf.shape for name, leaf in blueprint.layouts[form].leaves(blueprint.parameters()).items()}
    full = {**{f"self_attn.{name}": shape for name, shape in FULL_TENSORS.items()}, **BESIDE_THE_EXPERTS, **EXPERTS[form]}
    linear = {**{f"linear_attn.{name}": shape for name, shape in LINEAR_TENSORS.items()}, **BESIDE_THE_EXPERTS, **EXPERTS[form]}
    assert found == {
        "model.embed_tokens.weight": (53, 20),
        **{f"model.layers.{index}.{name}": shape for index in range(3) for name, shape in linear.items()},
        **{f"{prefix}.{name}": shape for prefix in ("model.layers.3", "mtp.layers.0") for name, shape in full.items()},
        **MODULE_TENSORS,
        "model.norm.weight": (20,),
        "lm_head.weight": (53, 20),
    }


class TestCheckpoints:
    TEXT = tokens(2, 9, vocab_size=53)

    @staticmethod
    def write(directory: Path, *, form: int, drop: str = "nothing") -> refimpl.Model:
        drawn = refimpl.init(config(), seed=2)
        tensors = drawn.blueprint.layouts[form].write(drawn.weights)
        save_checkpoint(directory, config(), {name: array for name, array in tensors.items() if not name.startswith(drop)})
        return drawn

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("form", [0, 1], ids=["published", "held"])
    def test_what_is_written_is_read(self, tmp_path: Path, form: int, stream: bool) -> None:
        drawn = self.write(tmp_path, form=form)
        model = refimpl.load(tmp_path, "float32", stream=stream)
        hidden = model.hidden(self.TEXT)[0]
        assert np.array_equal(model.logits(hidden), drawn(self.TEXT)[0])
        found, expected = (each.multi_token(self.TEXT[:, 1:], hidden[:, :-1])[0] for each in (model, drawn))
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize("form", [0, 1], ids=["published", "held"])
    def test_a_checkpoint_without_the_module_is_read_without_it(self, tmp_path: Path, form: int) -> None:
        drawn = self.write(tmp_path, form=form, drop="mtp.")
        model = refimpl.load(tmp_path, "float32")
        assert model.blueprint.multi_token == ()
        assert np.array_equal(model(self.TEXT)[0], drawn(self.TEXT)[0])

    def test_a_part_of_the_module_is_missing(self, tmp_path: Path) -> None:
        self.write(tmp_path, form=0, drop="mtp.fc")
        with pytest.raises(ValueError, match=r"tensor 'mtp\.fc\.weight' is missing"):
            refimpl.load(tmp_path)
