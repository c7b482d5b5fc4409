"""GPT-2: what its configuration says, what its tensors are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import refimpl
from refimpl.blocks import LayerNorm
from refimpl.checkpoint import save_checkpoint

SIZES = {"vocab_size": 53, "n_positions": 24, "n_embd": 20, "n_layer": 3, "n_head": 5}


def config(**changes: object) -> dict:
    return {"model_type": "gpt2", **SIZES, **changes}


def without(key: str) -> dict:
    return {name: value for name, value in config().items() if name != key}


def mixers(**changes: object) -> list:
    return [layer.mixer for layer in refimpl.blueprint(config(**changes)).layers]


class TestConfiguration:
    def test_defaults_are_those_of_the_class(self) -> None:
        blueprint = refimpl.blueprint(config())
        layer = blueprint.layers[0]
        assert (layer.mlp.intermediate_size, layer.mlp.activation, blueprint.head.tied) == (80, "gelu_tanh", True)
        assert {layer.mixer_norm, layer.mlp_norm, blueprint.final_norm} == {LayerNorm(size=20, eps=1e-5)}
        assert {mixer.scale for mixer in mixers()} == {4**-0.5}
        assert {(mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.rope) for mixer in mixers()} == {(5, 5, 4, None)}

    @pytest.mark.parametrize("key", SIZES)
    def test_a_missing_size_is_named(self, key: str) -> None:
        with pytest.raises(ValueError, match=f"^config: key '{key}' is missing and 'gpt2' needs it"):
            refimpl.blueprint(without(key))

    @pytest.mark.parametrize("key", [*SIZES, "n_inner", "n_ctx"])
    @pytest.mark.parametrize("value", [0, -1, True, 2.0, "3"])
    def test_a_size_must_be_a_positive_integer(self, key: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: {key} is {value!r} but needs"):
            refimpl.blueprint(config(**{key: value}))

    def test_heads_must_divide_the_width(self) -> None:
        with pytest.raises(ValueError, match=r"^config: n_embd is 20, which n_head = 6 does not divide$"):
            mixers(n_head=6)

    def test_an_old_context_that_differs_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"^config: n_positions is 24 but n_ctx is 25; one of them must go$"):
            mixers(n_ctx=25)

    @pytest.mark.parametrize("value", [-1.0, float("inf"), None, "1e-5"])
    def test_eps_must_be_a_number_of_at_least_zero(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"^config: layer_norm_epsilon is .* but needs"):
            mixers(layer_norm_epsilon=value)

    def test_eps_reaches_every_norm(self) -> None:
        blueprint = refimpl.blueprint(config(layer_norm_epsilon=0.25))
        norms = [blueprint.final_norm, *(norm for layer in blueprint.layers for norm in (layer.mixer_norm, layer.mlp_norm))]
        assert {norm.eps for norm in norms} == {0.25}

    @pytest.mark.parametrize(
        ("changes", "scales"),
        [
            ({}, [1 / 2, 1 / 2, 1 / 2]),
            ({"scale_attn_weights": False}, [1, 1, 1]),
            ({"scale_attn_by_inverse_layer_idx": True}, [1 / 2, 1 / 4, 1 / 6]),
            ({"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, [1, 1 / 2, 1 / 3]),
        ],
    )
    def test_the_scale_of_each_layer(self, changes: dict, scales: list[float]) -> None:
        assert [mixer.scale for mixer in mixers(**changes)] == scales

    @pytest.mark.parametrize(
        ("name", "activation"),
        [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("gelu", "gelu"), ("silu", "silu")],
    )
    def test_activations(self, name: str, activation: str) -> None:
        assert refimpl.blueprint(config(activation_function=name)).layers[0].mlp.activation == activation

    def test_another_activation_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^config: activation_function is 'relu' but 'gpt2' supports 'silu'"):
            mixers(activation_function="relu")

    def test_keys_that_change_no_number(self) -> None:
        changes = {
            "reorder_and_upcast_attn": True,
            "n_ctx": 24,
            "resid_pdrop": 0.5,
            "summary_type": "mean",
            "output_past": True,
        }
        plain, other = refimpl.blueprint(config()), refimpl.blueprint(config(**changes))
        assert (plain.layers, plain.head, plain.position_embedding) == (other.layers, other.head, other.position_embedding)

    @pytest.mark.parametrize("changes", [{"add_cross_attention": True}, {"quantization_config": {}}])
    def test_what_is_not_supported_is_refused(self, changes: dict) -> None:
        with pytest.raises(ValueError, match=f"^config: {next(iter(changes))} is .*, which 'gpt2' does not support here$"):
            mixers(**changes)

    def test_keys_of_other_architectures_are_unknown(self) -> None:
        with pytest.raises(ValueError, match=r"^config: unknown key 'rope_theta'"):
            mixers(rope_theta=1e4)


class TestPositions:
    def test_the_last_place_of_the_table_is_in_use(self) -> None:
        model = refimpl.init(config(), dtype="float64")
        _, cache = model(np.zeros((1, 23), int))
        assert np.isfinite(model(np.zeros((1, 1), int), cache)[0]).all()

    def test_beyond_the_table_is_an_error_that_names_both(self) -> None:
        model = refimpl.init(config(), dtype="float64")
        message = "position 24 is out of range: the table has 24 positions"
        with pytest.raises(ValueError, match=message):
            model(np.zeros((1, 25), int))
        _, cache = model(np.zeros((1, 24), int))
        with pytest.raises(ValueError, match=message):
            model(np.zeros((1, 1), int), cache)

    def test_padding_takes_no_place(self) -> None:
        model = refimpl.init(config(), dtype="float64")
        mask = np.ones((1, 30), int)
        mask[:, :6] = 0
        padded, _ = model(np.zeros((1, 30), int), attention_mask=mask)
        np.testing.assert_allclose(padded[:, 6:], model(np.zeros((1, 24), int))[0], rtol=0, atol=1e-12)


class TestNamesOnDisk:
    @pytest.mark.parametrize(("place", "prefix"), [(0, ""), (1, "transformer.")])
    def test_all_of_them(self, place: int, prefix: str) -> None:
        blueprint = refimpl.blueprint(config(n_layer=1, n_inner=28))
        leaves = blueprint.layouts[place].leaves(blueprint.parameters())
        assert {name: leaf.shape for name, leaf in leaves.items()} == {
            f"{prefix}wte.weight": (53, 20),
            f"{prefix}wpe.weight": (24, 20),
            f"{prefix}h.0.ln_1.weight": (20,),
            f"{prefix}h.0.ln_1.bias": (20,),
            f"{prefix}h.0.attn.c_attn.weight": (20, 60),
            f"{prefix}h.0.attn.c_attn.bias": (60,),
            f"{prefix}h.0.attn.c_proj.weight": (20, 20),
            f"{prefix}h.0.attn.c_proj.bias": (20,),
            f"{prefix}h.0.ln_2.weight": (20,),
            f"{prefix}h.0.ln_2.bias": (20,),
            f"{prefix}h.0.mlp.c_fc.weight": (20, 28),
            f"{prefix}h.0.mlp.c_fc.bias": (28,),
            f"{prefix}h.0.mlp.c_proj.weight": (28, 20),
            f"{prefix}h.0.mlp.c_proj.bias": (20,),
            f"{prefix}ln_f.weight": (20,),
            f"{prefix}ln_f.bias": (20,),
        }

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_checkpoint_with_masks_and_a_copy_of_the_head(self, place: int, stream: bool, tmp_path: Path) -> None:
        model = refimpl.init(config(), seed=3, dtype="float64")
        prefix = ("", "transformer.")[place]
        tensors = model.blueprint.layouts[place].write(model.weights)
        for layer in range(3):
            tensors[f"{prefix}h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 24, 24), np.float32))
            tensors[f"{prefix}h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
        tensors["lm_head.weight"] = tensors[f"{prefix}wte.weight"]
        save_checkpoint(tmp_path, config(), tensors)
        tokens = np.arange(8).reshape(2, 4)
        assert np.array_equal(refimpl.load(tmp_path, stream=stream)(tokens)[0], model(tokens)[0])

    @pytest.mark.parametrize("missing", ["h.1.attn.c_attn.bias", "h.2.mlp.c_proj.bias"])
    def test_a_bias_is_not_taken_for_a_mask(self, missing: str, tmp_path: Path) -> None:
        model = refimpl.init(config(), dtype="float64")
        tensors = model.blueprint.layouts[0].write(model.weights)
        del tensors[missing]
        save_checkpoint(tmp_path, config(), tensors)
        with pytest.raises(ValueError, match=f"tensor '{missing}' is missing"):
            refimpl.load(tmp_path)

    def test_q_k_and_v_are_thirds_in_this_order(self) -> None:
        model = refimpl.init(config(), dtype="float64")
        tensors = model.blueprint.layouts[0].write(model.weights)
        for third, name in enumerate("qkv"):
            columns = slice(20 * third, 20 * (third + 1))
            assert np.array_equal(
                tensors["h.1.attn.c_attn.weight"][:, columns].T, model.weights[f"layers.1.mixer.{name}_proj.weight"]
            )
            assert np.array_equal(tensors["h.1.attn.c_attn.bias"][columns], model.weights[f"layers.1.mixer.{name}_proj.bias"])


@pytest.mark.parametrize(
    ("name", "count"), [("openai-community/gpt2", 124_439_808), ("openai-community/gpt2-xl", 1_557_611_200)]
)
def test_parameters_of_the_releases(name: str, count: int) -> None:
    blueprint = refimpl.blueprint(name)
    assert blueprint.num_parameters() == blueprint.num_active_parameters() == count
