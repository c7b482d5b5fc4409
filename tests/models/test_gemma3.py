"""Gemma 3: the defaults of its class, the pattern of its layers and their rotations, what its tensors are called."""

from __future__ import annotations

import pytest

import refimpl
from refimpl.blocks import Linear, Rope

SIZES = {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 34, "num_attention_heads": 6, "num_key_value_heads": 2}


def config(**changes: object) -> dict:
    return {"model_type": "gemma3_text", **SIZES, "num_hidden_layers": 7, "head_dim": 10, "sliding_window": 5, **changes}


def windows(**changes: object) -> list[int | None]:
    return [layer.mixer.window for layer in refimpl.blueprint(config(**changes)).layers]


def ropes(**changes: object) -> dict[bool, Rope]:
    """The rotation of layers with and without a window."""
    found: dict[bool, set[Rope]] = {True: set(), False: set()}
    for layer in refimpl.blueprint(config(**changes)).layers:
        found[layer.mixer.window is not None].add(layer.mixer.rope)
    return {slides: rope for slides, (rope,) in found.items()}


class TestDefaults:
    def test_an_empty_configuration_is_the_class(self) -> None:
        blueprint = refimpl.blueprint({"model_type": "gemma3_text"})
        mixer = blueprint.layers[0].mixer
        assert (blueprint.vocab_size, blueprint.hidden_size, len(blueprint.layers)) == (262_208, 2304, 26)
        assert (mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.scale, mixer.window) == (8, 4, 256, 1 / 16, 4096)
        assert blueprint.layers[0].mlp.intermediate_size == 9216
        assert blueprint.layers[0].mlp.activation == "gelu_tanh"
        assert (blueprint.head.tied, blueprint.head.softcap, blueprint.final_norm.eps) == (True, None, 1e-6)

    def test_the_published_file_of_the_small_release(self) -> None:
        """The hub's object has these keys alone."""
        published = refimpl.blueprint("google/gemma-3-4b-it")
        text = {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        }
        small = refimpl.blueprint({"model_type": "gemma3", "text_config": text})
        assert (small.embedding, small.layers, small.final_norm) == (
            published.embedding,
            published.layers,
            published.final_norm,
        )
        assert (small.head, small.layouts) == (published.head, published.layouts)

    def test_the_scale_of_the_large_release(self) -> None:
        (scale,) = {layer.mixer.scale for layer in refimpl.blueprint("google/gemma-3-27b-it").layers}
        assert scale == 168**-0.5


class TestNorms:
    def test_every_norm_is_zero_centred_and_has_the_eps(self) -> None:
        blueprint = refimpl.blueprint(config(rms_norm_eps=0.125))
        norms = {blueprint.final_norm}
        for layer in blueprint.layers:
            norms |= {layer.mixer_norm, layer.mixer_post_norm, layer.mlp_norm, layer.mlp_post_norm, layer.mixer.qk_norm}
        assert {(norm.zero_centred, norm.eps, norm.size) for norm in norms} == {(True, 0.125, 24), (True, 0.125, 10)}

    def test_the_embedding_has_a_scale_and_the_head_has_none(self) -> None:
        blueprint = refimpl.blueprint(config())
        assert (blueprint.embedding.scale, blueprint.head.scale) == (24**0.5, None)


class TestPattern:
    def test_the_last_of_six_layers_sees_all(self) -> None:
        assert windows() == [5, 5, 5, 5, 5, None, 5]

    def test_a_pattern_of_its_own(self) -> None:
        assert windows(sliding_window_pattern=3) == [5, 5, None, 5, 5, None, 5]
        assert windows(sliding_window_pattern=1) == [None] * 7

    def test_layer_types_win(self) -> None:
        types = ["full_attention", *["sliding_attention"] * 6]
        found = windows(layer_types=types, sliding_window_pattern=3, _sliding_window_pattern=4)
        assert found == [None, *[5] * 6]

    def test_the_trace_of_a_pattern_alone_must_be_the_pattern(self) -> None:
        assert windows(_sliding_window_pattern=6) == windows()
        with pytest.raises(ValueError, match=r"^config: _sliding_window_pattern is 3 but sliding_window_pattern is 6; without"):
            windows(_sliding_window_pattern=3)

    @pytest.mark.parametrize("value", [0, -2, None, 2.5])
    def test_a_pattern_must_be_a_positive_integer(self, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: sliding_window_pattern is {value} but needs"):
            windows(sliding_window_pattern=value)


class TestRotations:
    def test_defaults(self) -> None:
        assert ropes() == {False: Rope(rotary_dim=10, theta=1e6), True: Rope(rotary_dim=10, theta=1e4)}

    def test_the_old_scaling_is_that_of_layers_that_see_all(self) -> None:
        found = ropes(rope_theta=300, rope_local_base_freq=40, rope_scaling={"rope_type": "linear", "factor": 8})
        assert found[False] == Rope(rotary_dim=10, theta=300, scaling=Linear(factor=8))
        assert found[True] == Rope(rotary_dim=10, theta=40)

    def test_the_new_keys_say_the_same(self) -> None:
        full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 300.0}
        new = ropes(rope_parameters={"full_attention": full, "sliding_attention": {"rope_theta": 40.0}})
        assert new == ropes(rope_theta=300, rope_local_base_freq=40, rope_scaling={"rope_type": "linear", "factor": 8})

    def test_the_new_keys_may_scale_the_others(self) -> None:
        sliding = {"rope_type": "linear", "factor": 2.0}
        found = ropes(rope_parameters={"sliding_attention": sliding, "full_attention": None})
        assert (found[False].scaling, found[True].scaling) == (None, Linear(factor=2.0))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
                r"rope_parameters is \{.*\} but needs an object for each of full_attention, sliding_attention",
            ),
            ({"rope_parameters": {"full_attention": 3}}, r"rope_parameters is \{.*\} but needs an object for each of"),
            (
                {"rope_local_base_freq": 3.0, "rope_parameters": {"sliding_attention": {"rope_theta": 4.0}}},
                "rope_local_base_freq is 3.0 at the top level but 4.0 among the rotary keys; one of them must go",
            ),
            (
                {"rope_theta": 3.0, "rope_parameters": {"full_attention": {"rope_theta": 4.0}}},
                "rope_theta is 3.0 at the top level but 4.0 among the rotary keys; one of them must go",
            ),
            (
                {
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                    "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}},
                },
                "rope_scaling and rope_parameters are both set and differ; one of them must go",
            ),
            ({"rope_parameters": {"sliding_attention": {"factor": 2.0}}}, "unknown key 'factor'"),
        ],
    )
    def test_what_contradicts_itself_is_one_sentence(self, changes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {message}"):
            refimpl.blueprint(config(**changes))


class TestSwitches:
    @pytest.mark.parametrize("value", [0.0, -3.0, True])
    def test_a_cap_must_be_positive(self, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: final_logit_softcapping is {value!r} but needs"):
            refimpl.blueprint(config(final_logit_softcapping=value))

    @pytest.mark.parametrize("value", [0.0, -1.0, None])
    def test_the_scalar_must_be_positive(self, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: query_pre_attn_scalar is {value!r} but needs"):
            refimpl.blueprint(config(query_pre_attn_scalar=value))

    @pytest.mark.parametrize(("key", "value"), [("attn_logit_softcapping", 50.0), ("use_bidirectional_attention", True)])
    def test_what_no_release_sets_must_be_off(self, key: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: {key} is {value!r} but must be off for 'gemma3_text': "):
            refimpl.blueprint(config(**{key: value}))
        refimpl.blueprint(config(**{key: None}))

    def test_a_cap_inside_a_multimodal_configuration_is_one_sentence(self) -> None:
        values = {"model_type": "gemma3", "text_config": config(final_logit_softcapping=30.0)}
        with pytest.raises(ValueError, match=r"^config: final_logit_softcapping is 30.0 but must be null inside 'gemma3': "):
            refimpl.blueprint(values)

    def test_a_window_is_needed_where_layers_slide(self) -> None:
        with pytest.raises(ValueError, match=r"^config: layer_types has sliding_attention, which needs sliding_window$"):
            windows(sliding_window=None)
        assert windows(sliding_window=None, layer_types=["full_attention"] * 7) == [None] * 7

    def test_the_activation_has_a_name_of_its_own(self) -> None:
        with pytest.raises(ValueError, match=r"^config: unknown key 'hidden_act'.*did you mean 'hidden_activation'\?"):
            refimpl.blueprint(config(hidden_act="silu"))


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config(num_hidden_layers=1))
    (layout,) = blueprint.layouts
    projections = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    norms = {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
    norms |= {f"self_attn.{name}_norm" for name in "qk"}
    inner = {f"model.layers.0.{name}.weight" for name in projections | norms}
    assert layout.leaves(blueprint.parameters()).keys() == inner | {"model.embed_tokens.weight", "model.norm.weight"}
