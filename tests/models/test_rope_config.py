"""The rotary keys of a config.json: old, new, and what contradicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refimpl.blocks import Linear, Llama3, Rope, Yarn
from refimpl.config import Config
from refimpl.models.rope_config import read_rope

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def read(**values: object) -> Rope:
    config = Config({"model_type": "toy", **values})
    rope = read_rope(config, head_dim=64, default_theta=1e4, partial=True)
    config.finish()
    return rope


class TestTheta:
    def test_absent_is_the_default_of_the_architecture(self) -> None:
        assert read() == Rope(rotary_dim=64, theta=1e4)

    @pytest.mark.parametrize("values", [
        {"rope_theta": 5e5},
        {"rope_theta": 500000},
        {"rope_parameters": {"rope_theta": 5e5}},
        {"rope_parameters": {"rope_theta": 500000, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": None},
        {"rope_theta": 5e5, "rope_scaling": {}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ])  # fmt: skip
    def test_old_and_new_keys_say_the_same(self, values: dict) -> None:
        assert read(**values) == Rope(rotary_dim=64, theta=5e5)

    @pytest.mark.parametrize("theta", [0, -1.0, 0.0])
    @pytest.mark.parametrize("where", [lambda t: {"rope_theta": t}, lambda t: {"rope_parameters": {"rope_theta": t}}])
    def test_theta_must_be_positive(self, where, theta: float) -> None:
        with pytest.raises(ValueError, match=r"config: rope_theta is .* but needs a positive"):
            read(**where(theta))

    def test_two_thetas_that_contradict_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="config: rope_theta"):
            read(rope_theta=5e5, rope_parameters={"rope_theta": 1e6, "rope_type": "default"})


class TestPartial:
    @pytest.mark.parametrize("values", [{"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}])
    def test_the_rotated_width_is_a_share_of_the_head(self, values: dict) -> None:
        assert read(**values).rotary_dim == 32

    @pytest.mark.parametrize("factor", [0.0, -0.5, 1.5])
    def test_a_share_must_lie_between_none_and_all(self, factor: float) -> None:
        with pytest.raises(ValueError, match=r"config: partial_rotary_factor is .* but"):
            read(partial_rotary_factor=factor)

    @pytest.mark.parametrize("factor", [0.05, 0.01])
    def test_a_share_that_leaves_no_pairs_is_an_error(self, factor: float) -> None:
        rotated = int(64 * factor)
        with pytest.raises(ValueError, match=rf"^config: .* is {factor}, which makes {rotated} of 64 entries .* go in pairs$"):
            read(partial_rotary_factor=factor)

    def test_an_architecture_that_rotates_whole_heads_says_so(self) -> None:
        config = Config({"model_type": "toy", "partial_rotary_factor": 0.5})
        with pytest.raises(ValueError, match=r"^config: partial_rotary_factor is 0.5 but 'toy' rotates whole heads$"):
            read_rope(config, head_dim=64, default_theta=1e4)

    def test_two_shares_that_contradict_are_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"^config: partial_rotary_factor is 0.5 at the top level but 0.25 among"):
            read(partial_rotary_factor=0.5, rope_parameters={"partial_rotary_factor": 0.25})


class TestScaling:
    @pytest.mark.parametrize("key", ["type", "rope_type"])
    @pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"type": "linear", "factor": 4}, Linear(factor=4.0)),
            ({"type": "llama3", **LLAMA3}, Llama3(**LLAMA3)),
        ],
    )
    def test_every_spelling(self, place: str, key: str, values: dict, expected: object) -> None:
        kind = values["type"]
        rest = {name: value for name, value in values.items() if name != "type"}
        assert read(**{place: {key: kind, **rest}}).scaling == expected

    def test_the_same_scaling_twice_passes(self) -> None:
        scaling = {"rope_type": "linear", "factor": 4.0}
        assert read(rope_scaling=scaling, rope_parameters=dict(scaling)).scaling == Linear(factor=4.0)

    def test_two_scalings_that_contradict_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="config: rope_scaling and rope_parameters are both set and differ"):
            read(rope_scaling={"rope_type": "linear", "factor": 4.0}, rope_parameters={"rope_type": "linear", "factor": 2.0})

    def test_two_types_that_contradict_are_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"config: .*type"):
            read(rope_scaling={"type": "linear", "rope_type": "default", "factor": 4.0})

    @pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "proportional", "YARN", ""])
    def test_an_unsupported_type_is_one_sentence(self, kind: str) -> None:
        with pytest.raises(
            ValueError, match=f"^config: rope_type is '{kind}' but must be one of 'default', 'linear', 'llama3', 'yarn'$"
        ):
            read(rope_scaling={"rope_type": kind, "factor": 2.0})

    @pytest.mark.parametrize("values", [{"rope_type": 3}, {"type": ["yarn"]}])
    def test_a_type_that_is_no_string_is_one_sentence(self, values: dict) -> None:
        with pytest.raises(ValueError, match=r"^config: (rope_)?type is .* but needs a string$"):
            read(rope_scaling=values)

    @pytest.mark.parametrize("missing", ["factor", "low_freq_factor", "high_freq_factor"])
    def test_a_missing_key_is_named(self, missing: str) -> None:
        values = {name: value for name, value in LLAMA3.items() if name != missing}
        with pytest.raises(ValueError, match=f"config: key '{missing}' is missing"):
            read(rope_scaling={"rope_type": "llama3", **values})

    def test_an_unknown_key_inside_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"unknown key 'facotr' \(value 4.0\).*did you mean 'factor'"):
            read(rope_scaling={"rope_type": "linear", "factor": 2.0, "facotr": 4.0})

    def test_a_key_of_another_type_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="unknown key 'beta_fast'"):
            read(rope_scaling={"rope_type": "linear", "factor": 2.0, "beta_fast": 32.0})

    @pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
    @pytest.mark.parametrize("value", ["linear", 2.0, [], True])
    def test_a_scaling_that_is_no_object_is_one_sentence(self, place: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^config: {place} is .* but needs an object$"):
            read(**{place: value})

    @pytest.mark.parametrize("factor", [0, -2.0])
    @pytest.mark.parametrize("kind", ["linear", "yarn"])
    def test_a_factor_must_be_positive(self, kind: str, factor: float) -> None:
        with pytest.raises(ValueError, match=f"factor is {float(factor)} but needs a positive"):
            read(max_position_embeddings=4096, rope_scaling={"rope_type": kind, "factor": factor})


class TestYarn:
    def yarn(self, max_position_embeddings: int | None = 4096, **values: object) -> Yarn:
        rope = read(max_position_embeddings=max_position_embeddings, rope_scaling={"rope_type": "yarn", **values})
        assert isinstance(rope.scaling, Yarn)
        return rope.scaling

    def test_defaults(self) -> None:
        expected = Yarn(
            factor=4.0,
            original_max_position_embeddings=4096,
            beta_fast=32.0,
            beta_slow=1.0,
            truncate=True,
            attention_factor=0.1 * math.log(4) + 1,
        )
        assert self.yarn(factor=4.0) == expected

    def test_every_key_is_read(self) -> None:
        values = {"factor": 2.0, "original_max_position_embeddings": 1024, "beta_fast": 16.0, "beta_slow": 2.0}
        values |= {"truncate": False, "attention_factor": 1.7}
        assert self.yarn(**values) == Yarn(**values)

    def test_r1_a_configured_attention_factor_replaces_the_derived_one(self) -> None:
        assert self.yarn(factor=32.0, attention_factor=1.25, mscale=1.0, mscale_all_dim=0.5).attention_factor == 1.25

    def test_mscales_enter_the_attention_factor(self) -> None:
        found = self.yarn(factor=40.0, mscale=0.707, mscale_all_dim=0.5)
        assert math.isclose(found.attention_factor, (0.0707 * math.log(40) + 1) / (0.05 * math.log(40) + 1))
        assert math.isclose(found.softmax_factor, (0.05 * math.log(40) + 1) ** 2)

    def test_a_configured_attention_factor_leaves_that_of_the_softmax_alone(self) -> None:
        found = self.yarn(factor=40.0, attention_factor=1.25, mscale_all_dim=0.5)
        assert math.isclose(found.softmax_factor, (0.05 * math.log(40) + 1) ** 2)

    @pytest.mark.parametrize("values", [{}, {"factor": None}])
    def test_an_absent_factor_is_the_ratio_of_the_lengths(self, values: dict) -> None:
        scaling = self.yarn(max_position_embeddings=16384, original_max_position_embeddings=4096, **values)
        assert scaling.factor == 4.0
        assert math.isclose(scaling.attention_factor, 0.1 * math.log(4) + 1)

    def test_neither_factor_nor_length_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="config: yarn needs factor, or max_position_embeddings to derive it from"):
            self.yarn(max_position_embeddings=None, original_max_position_embeddings=4096)

    def test_no_length_at_all_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="config: rope scaling needs original_max_position_embeddings, or max_position"):
            self.yarn(max_position_embeddings=None, factor=2.0)

    @pytest.mark.parametrize("key", ["original_max_position_embeddings", "beta_fast", "beta_slow"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_a_length_or_bound_must_be_positive(self, key: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"{key} is .* but needs a positive"):
            self.yarn(factor=2.0, **{key: value})

    def test_the_base_must_exceed_one(self) -> None:
        with pytest.raises(ValueError, match=r"^config: rope_theta is 1.0 but needs"):
            read(rope_theta=1.0, max_position_embeddings=64, rope_scaling={"rope_type": "yarn", "factor": 2.0})

    def test_mscales_that_cancel_are_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"mscale"):
            self.yarn(factor=math.e, mscale=1.0, mscale_all_dim=-10.0)


class TestFrequencies:
    """That a `Rope` hands its numbers to the right function: checked by the closed form of each."""

    def test_default(self) -> None:
        np.testing.assert_allclose(read(rope_theta=100.0).frequencies("float64"), [100 ** (-i / 32) for i in range(32)])

    def test_linear(self) -> None:
        rope = read(rope_theta=100.0, rope_scaling={"type": "linear", "factor": 4.0})
        np.testing.assert_allclose(rope.frequencies("float64"), [100 ** (-i / 32) / 4 for i in range(32)])
        assert rope.attention_factor == 1.0

    def test_llama3_keeps_the_first_and_scales_the_last(self) -> None:
        frequencies = read(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **LLAMA3}).frequencies("float64")
        np.testing.assert_allclose(frequencies[[0, -1]], [1, 5e5 ** (-31 / 32) / 8])

    def test_yarn_of_gpt_oss(self) -> None:
        scaling = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
        rope = read(rope_theta=150000, rope_scaling={**scaling, "original_max_position_embeddings": 4096})
        assert math.isclose(rope.frequencies("float64")[10], 1.9335001e-2, rel_tol=1e-7)
        assert math.isclose(rope.attention_factor, 1.3465735902799727)

    @pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 4.0}, {"type": "llama3", **LLAMA3}])
    def test_the_format_is_obeyed(self, scaling: dict | None) -> None:
        assert read(rope_scaling=scaling).frequencies("float32").dtype == np.float32
