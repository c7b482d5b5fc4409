"""What Qwen3 and SmolLM3 read from a configuration, and the names of their tensors."""

from __future__ import annotations

from typing import Any

import pytest

import refimpl
from refimpl.blocks import Attention, Yarn
from refimpl.blueprint import Blueprint
from refimpl.config import HARMLESS
from refimpl.storage import Tensor
from tests.tiny import qwen3, smollm3, without

BOTH = pytest.mark.parametrize("config", [qwen3, smollm3])
REQUIRED = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]


def mixers(config: dict[str, Any]) -> list[Attention]:
    return [layer.mixer for layer in refimpl.blueprint(config).layers]


def meaning(blueprint: Blueprint) -> tuple:
    return blueprint.embedding, blueprint.layers, blueprint.final_norm, blueprint.head, blueprint.layouts


@BOTH
class TestCommonKeys:
    @pytest.mark.parametrize("key", REQUIRED)
    def test_a_missing_key_is_named(self, config, key: str) -> None:
        with pytest.raises(ValueError, match=f"^config: key '{key}' is missing and '{config()['model_type']}' needs it"):
            refimpl.blueprint(without(config(), key))

    @pytest.mark.parametrize("key", [*REQUIRED, "num_key_value_heads", "head_dim"])
    @pytest.mark.parametrize("value", [0, -1, True, 2.0, "3"])
    def test_a_size_must_be_a_positive_integer(self, config, key: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: {key} is {value!r} but needs"):
            refimpl.blueprint(config(**{key: value}))

    @pytest.mark.parametrize("value", [0, -1])
    def test_a_window_must_be_a_positive_integer(self, config, value: int) -> None:
        values = {"use_sliding_window": True, "sliding_window": value, "max_window_layers": 0}
        with pytest.raises(ValueError, match=f"^config: sliding_window is {value} but needs a positive"):
            refimpl.blueprint(config(**values))

    @pytest.mark.parametrize("value", [-1.0, float("nan"), "1e-6", True, None])
    def test_eps_must_be_a_number_of_at_least_zero(self, config, value: object) -> None:
        with pytest.raises(ValueError, match=r"^config: rms_norm_eps is .* but needs"):
            refimpl.blueprint(config(rms_norm_eps=value))

    def test_heads_must_be_a_multiple_of_key_value_heads(self, config) -> None:
        values = {"num_attention_heads": 6, "num_key_value_heads": 4}
        with pytest.raises(ValueError, match="num_attention_heads is 6, which num_key_value_heads = 4 does not divide"):
            refimpl.blueprint(config(**values))

    def test_null_key_value_heads_are_as_many_as_heads(self, config) -> None:
        values = config(num_key_value_heads=None)
        assert {mixer.kv_heads for mixer in mixers(values)} == {values["num_attention_heads"]}

    def test_absent_key_value_heads_are_those_of_the_class(self, config) -> None:
        values = without(config(num_attention_heads=32, head_dim=2), "num_key_value_heads")
        assert {mixer.kv_heads for mixer in mixers(values)} == {{"smollm3": 4, "qwen3": 32}[values["model_type"]]}

    def test_an_odd_rotated_width_is_an_error(self, config) -> None:
        with pytest.raises(ValueError, match=r"config: .*7"):
            refimpl.blueprint(config(head_dim=7))

    @pytest.mark.parametrize(
        ("activation", "expected"),
        [("silu", "silu"), ("swish", "silu"), ("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")],
    )
    def test_every_activation(self, config, activation: str, expected: str) -> None:
        assert {layer.mlp.activation for layer in refimpl.blueprint(config(hidden_act=activation)).layers} == {expected}

    def test_another_activation_is_one_sentence(self, config) -> None:
        with pytest.raises(ValueError, match=r"^config: hidden_act is 'relu' but '.*' supports 'silu', 'swish', 'gelu'"):
            refimpl.blueprint(config(hidden_act="relu"))

    def test_eps_reaches_every_norm(self, config) -> None:
        blueprint = refimpl.blueprint(config(rms_norm_eps=0.125))
        layer = blueprint.layers[0]
        norms = [
            layer.mixer_norm,
            layer.mlp_norm,
            blueprint.final_norm,
            *([layer.mixer.qk_norm] if layer.mixer.qk_norm else []),
        ]
        assert {norm.eps for norm in norms} == {0.125}
        absent = refimpl.blueprint(without(config(), "rms_norm_eps"))
        assert {absent.final_norm.eps, absent.layers[0].mixer_norm.eps} == {1e-6}

    @pytest.mark.parametrize("key", sorted(HARMLESS - {"model_type"}))
    def test_a_harmless_key_changes_nothing(self, config, key: str) -> None:
        assert meaning(refimpl.blueprint(config(**{key: 3}))) == meaning(refimpl.blueprint(config()))

    def test_an_unknown_key_is_one_sentence(self, config) -> None:
        with pytest.raises(ValueError, match=r"^config: unknown key 'rope_tetha' \(value 1\) .*did you mean 'rope_theta'\?"):
            refimpl.blueprint(config(rope_tetha=1))

    def test_a_quantised_configuration_is_refused(self, config) -> None:
        with pytest.raises(ValueError, match=r"^config: quantization_config is .*, which '.*' does not support here"):
            refimpl.blueprint(config(quantization_config={"quant_method": "fp8"}))

    def test_attention_bias_is_on_all_four_projections(self, config) -> None:
        shapes = refimpl.blueprint(config(attention_bias=True)).parameters()
        plain = refimpl.blueprint(config()).parameters()
        added = {name.removeprefix("layers.0.mixer.") for name in shapes.keys() - plain.keys() if name.startswith("layers.0.")}
        assert added == {"q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.bias"}

    @pytest.mark.parametrize("tied", [False, True])
    def test_a_tied_head_has_no_parameters(self, config, tied: bool) -> None:
        blueprint = refimpl.blueprint(config(tie_word_embeddings=tied))
        assert blueprint.head.tied is tied
        assert ("head.weight" in blueprint.parameters()) is not tied

    def test_layer_types_say_which_layers_slide(self, config) -> None:
        count = config()["num_hidden_layers"]
        types = ["sliding_attention", *["full_attention"] * (count - 1)]
        found = mixers(config(layer_types=types, use_sliding_window=True, sliding_window=9))
        assert [mixer.window for mixer in found] == [9, *[None] * (count - 1)]

    @pytest.mark.parametrize(
        ("types", "message"),
        [
            (["full_attention"], "layer_types has 1 entries but num_hidden_layers is"),
            ([], "layer_types has 0 entries but num_hidden_layers is"),
            (
                ["chunked_attention"] * 9,
                "layer_types has 'chunked_attention' but '.*' supports full_attention, sliding_attention",
            ),
            ([3] * 9, "layer_types has 3 but"),
            ([["full_attention"]] * 9, r"layer_types has \['full_attention'\] but"),
            (["sliding_attention"] * 9, "layer_types has sliding_attention, which needs sliding_window"),
            ("full_attention", "layer_types is 'full_attention' but needs a list"),
        ],
    )
    def test_wrong_layer_types_are_one_sentence(self, config, types: object, message: str) -> None:
        count = config()["num_hidden_layers"]
        entries = types[:count] if isinstance(types, list) else types
        with pytest.raises(ValueError, match=f"^config: {message}"):
            refimpl.blueprint(config(layer_types=entries, sliding_window=None))


class TestArchitecture:
    @pytest.mark.parametrize("config", [{}, {"vocab_size": 3}])
    def test_none_is_one_sentence(self, config: dict) -> None:
        with pytest.raises(ValueError, match=r"^config: key 'model_type' is missing; it names the architecture$"):
            refimpl.blueprint(config)

    def test_a_near_one_is_suggested(self) -> None:
        with pytest.raises(ValueError, match=r"^config: unknown architecture 'qwen4'; did you mean 'qwen3'\?$"):
            refimpl.blueprint(qwen3(model_type="qwen4"))

    @pytest.mark.parametrize("name", ["bert", 3, ["qwen3"], {}])
    def test_an_unlike_one_names_the_known(self, name: object) -> None:
        with pytest.raises(ValueError, match=r"^config: unknown architecture .*"):
            refimpl.blueprint(qwen3(model_type=name))


class TestQwen3:
    def test_defaults_are_those_of_the_class(self) -> None:
        config = without(qwen3(), "head_dim", "rope_theta", "rms_norm_eps", "hidden_act", "tie_word_embeddings")
        blueprint = refimpl.blueprint(config)
        mixer = blueprint.layers[0].mixer
        assert (mixer.head_dim, mixer.rope.theta, mixer.rope.rotary_dim, blueprint.head.tied) == (128, 1e4, 128, False)
        assert blueprint.layers[0].mlp.activation == "silu"
        assert not mixer.qkv_bias

    def test_the_scale_is_from_the_head_and_not_from_the_hidden_size(self) -> None:
        assert {mixer.scale for mixer in mixers(qwen3(head_dim=16))} == {0.25}

    def test_the_first_layers_are_full_and_the_rest_slide(self) -> None:
        found = mixers(qwen3(use_sliding_window=True, sliding_window=7, max_window_layers=2))
        assert [mixer.window for mixer in found] == [None, None, 7]

    def test_absent_window_keys_take_the_defaults_of_the_class(self) -> None:
        found = mixers(qwen3(use_sliding_window=True, num_hidden_layers=30))
        assert [mixer.window for mixer in found] == [None] * 28 + [4096] * 2

    @pytest.mark.parametrize("values", [{}, {"use_sliding_window": False, "max_window_layers": 0}])
    def test_a_window_that_is_switched_off_is_none(self, values: dict) -> None:
        assert {mixer.window for mixer in mixers(qwen3(sliding_window=7, **values))} == {None}

    def test_yarn_reaches_every_layer(self) -> None:
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
        found = {mixer.rope for mixer in mixers(qwen3(rope_scaling=scaling))}
        assert [type(rope.scaling) for rope in found] == [Yarn]

    def test_names_on_disk(self) -> None:
        blueprint = refimpl.blueprint(qwen3(num_hidden_layers=1, attention_bias=True))
        names = blueprint.layouts[0].leaves(blueprint.parameters())
        attention = [f"{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")] + ["q_norm.weight", "k_norm.weight"]
        expected = [
            "model.embed_tokens.weight",
            "model.layers.0.input_layernorm.weight",
            *(f"model.layers.0.self_attn.{name}" for name in attention),
            "model.layers.0.post_attention_layernorm.weight",
            *(f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
            "model.norm.weight",
            "lm_head.weight",
        ]
        assert sorted(names) == sorted(expected)
        sources = blueprint.layouts[0].sources
        assert sources["layers.0.mixer.q_norm.weight"] == Tensor("model.layers.0.self_attn.q_norm.weight")
        assert sources["layers.0.mlp_norm.weight"] == Tensor("model.layers.0.post_attention_layernorm.weight")

    def test_shapes(self) -> None:
        shapes = refimpl.blueprint(qwen3()).parameters()
        assert {name.removeprefix("layers.1."): shape for name, shape in shapes.items() if name.startswith("layers.1.")} == {
            "mixer_norm.weight": (20,),
            "mixer.q_proj.weight": (48, 20),
            "mixer.k_proj.weight": (16, 20),
            "mixer.v_proj.weight": (16, 20),
            "mixer.o_proj.weight": (20, 48),
            "mixer.q_norm.weight": (8,),
            "mixer.k_norm.weight": (8,),
            "mlp_norm.weight": (20,),
            "mlp.gate_proj.weight": (28, 20),
            "mlp.up_proj.weight": (28, 20),
            "mlp.down_proj.weight": (20, 28),
        }
        assert shapes["embedding.weight"] == shapes["head.weight"] == (53, 20)


class TestSmolLM3:
    def ropes(self, **changes: object) -> list[bool]:
        return [mixer.rope is not None for mixer in mixers(smollm3(**changes))]

    def test_one_means_that_the_layer_has_rope(self) -> None:
        assert self.ropes(no_rope_layers=[1, 0, 0, 1, 0]) == [True, False, False, True, False]

    @pytest.mark.parametrize(
        ("interval", "expected"),
        [(1, [False] * 5), (2, [True, False, True, False, True]), (4, [True, True, True, False, True]), (9, [True] * 5)],
    )
    @pytest.mark.parametrize("no_list", [lambda c: without(c, "no_rope_layers"), lambda c: {**c, "no_rope_layers": None}])
    def test_without_the_list_the_interval_decides(self, no_list, interval: int, expected: list[bool]) -> None:
        found = mixers(no_list(smollm3(no_rope_layer_interval=interval)))
        assert [mixer.rope is not None for mixer in found] == expected

    def test_the_default_interval_is_four(self) -> None:
        found = mixers(without(smollm3(), "no_rope_layers"))
        assert [mixer.rope is not None for mixer in found] == [True, True, True, False, True]

    def test_the_list_has_precedence_over_the_interval(self) -> None:
        assert self.ropes(no_rope_layers=[1] * 5, no_rope_layer_interval=1) == [True] * 5

    @pytest.mark.parametrize("flags", [[1, 0], [], [1, 0, 2, 1, 0], [1, 0, -1, 1, 0], [1, 0, "1", 1, 0], [1, 0, None, 1, 0]])
    def test_a_list_that_does_not_say_for_every_layer_is_one_sentence(self, flags: list) -> None:
        with pytest.raises(ValueError, match=r"^config: no_rope_layers is .* but needs 0 or 1 for each of the 5 layers$"):
            self.ropes(no_rope_layers=flags)

    @pytest.mark.parametrize("interval", [0, -1])
    def test_the_interval_must_be_positive(self, interval: int) -> None:
        with pytest.raises(ValueError, match=f"^config: no_rope_layer_interval is {interval} but needs a positive integer$"):
            mixers(without(smollm3(no_rope_layer_interval=interval), "no_rope_layers"))

    def test_layers_without_rope_slide_where_windows_are_in_use(self) -> None:
        found = mixers(smollm3(use_sliding_window=True, sliding_window=6))
        assert [(mixer.rope is None, mixer.window) for mixer in found] == [
            (False, None), (True, 6), (False, None), (False, None), (True, 6),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "values", [{"sliding_window": 6}, {"use_sliding_window": True}, {"use_sliding_window": True, "sliding_window": None}]
    )
    def test_without_both_keys_nothing_slides(self, values: dict) -> None:
        assert {mixer.window for mixer in mixers(smollm3(**values))} == {None}

    def test_the_head_size_is_derived_unless_it_is_given(self) -> None:
        assert {(m.head_dim, m.scale, m.rope.rotary_dim) for m in mixers(smollm3()) if m.rope} == {(6, 6**-0.5, 6)}
        assert {(m.head_dim, m.scale) for m in mixers(smollm3(head_dim=16))} == {(16, 0.25)}

    def test_a_hidden_size_that_heads_do_not_divide_is_rounded_down(self) -> None:
        assert {mixer.head_dim for mixer in mixers(smollm3(hidden_size=25))} == {25 // smollm3()["num_attention_heads"]}

    def test_there_is_no_qk_norm(self) -> None:
        assert {mixer.qk_norm for mixer in mixers(smollm3())} == {None}

    def test_the_head_is_tied_by_default_and_theta_two_million(self) -> None:
        blueprint = refimpl.blueprint(without(smollm3(), "rope_theta"))
        assert blueprint.head.tied
        assert blueprint.layers[0].mixer.rope.theta == 2e6

    def test_mlp_bias_is_on_all_three_matrices(self) -> None:
        shapes = refimpl.blueprint(smollm3(mlp_bias=True)).parameters()
        assert [shapes[f"layers.4.mlp.{name}_proj.bias"] for name in ("gate", "up", "down")] == [(36,), (36,), (24,)]

    def test_max_window_layers_means_nothing_here(self) -> None:
        assert meaning(refimpl.blueprint(smollm3(max_window_layers=1))) == meaning(refimpl.blueprint(smollm3()))
