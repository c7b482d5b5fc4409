"""What DeepSeek-V3 and Kimi K2 read from a configuration, the names of their tensors, and that storage changes no logit."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import LatentAttention, MoE
from refimpl.checkpoint import CheckpointError, save_checkpoint
from tests.tiny import without

DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 28,
    "moe_intermediate_size": 10,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "q_lora_rank": 14,
    "kv_lora_rank": 9,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "num_nextn_predict_layers": 0,
}
YARN = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64}
FORMS = pytest.mark.parametrize("expanded", [False, True])


def config(**changes: Any) -> dict[str, Any]:
    return {**DEEPSEEK_V3, **changes}


def mixer(values: dict[str, Any]) -> LatentAttention:
    found = refimpl.blueprint(values).layers[0].mixer
    assert isinstance(found, LatentAttention)
    return found


def test_defaults_are_those_of_the_class() -> None:
    widths = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    blueprint = refimpl.blueprint(without(config(num_hidden_layers=5, n_routed_experts=24), *widths, "num_experts_per_tok"))
    read = blueprint.layers[0].mixer
    assert isinstance(read, LatentAttention)
    found = (read.q_lora_rank, read.kv_lora_rank, read.nope_head_dim, read.rope_head_dim, read.v_head_dim)
    assert found == (1536, 512, 128, 64, 128)
    assert (read.heads, read.bias, read.absorbed, read.scale) == (3, False, True, 192**-0.5)
    assert read.rope is not None
    assert (read.rope.theta, read.rope.rotary_dim, read.rope.interleaved) == (1e4, 64, True)
    assert [isinstance(layer.mlp, MoE) for layer in blueprint.layers] == [False, False, False, True, True]
    mlp: Any = blueprint.layers[4].mlp
    router = mlp.router
    assert (router.top_k, router.groups, router.top_groups) == (8, 8, 4)
    assert (router.renormalise, router.scaling_factor, router.eps) == (True, 2.5, 1e-20)
    assert mlp.shared.intermediate_size == 10


def test_null_is_no_latent_of_the_queries() -> None:
    shapes = refimpl.blueprint(config(q_lora_rank=None)).parameters()
    assert shapes["layers.0.mixer.q_proj.weight"] == (30, 24)
    assert not any(".q_a_" in name or ".q_b_" in name for name in shapes)


def test_the_eps_of_the_norms_between_the_projections_is_that_of_the_class() -> None:
    blueprint = refimpl.blueprint(config(rms_norm_eps=0.5))
    assert blueprint.final_norm.eps == 0.5
    assert mixer(config(rms_norm_eps=0.5)).norm_eps == 1e-6


def test_biases_are_where_the_class_has_them() -> None:
    for ranks, biased in (({}, {"q_a_proj", "kv_a_proj", "o_proj"}), ({"q_lora_rank": None}, {"kv_a_proj", "o_proj"})):
        names = refimpl.blueprint(config(attention_bias=True, first_k_dense_replace=9, **ranks)).parameters()
        assert {name.split(".")[-2] for name in names if name.endswith("bias")} == biased


@pytest.mark.parametrize(("value", "interleaved"), [(True, True), (False, False), (None, False)])
def test_the_layout_of_the_rotated_pairs(value: bool | None, interleaved: bool) -> None:
    rope = mixer(config(rope_interleave=value)).rope
    assert rope is not None
    assert rope.interleaved is interleaved


class TestScale:
    """(nope + rope)^-0.5, and YaRN's factor on top of it."""

    @pytest.mark.parametrize(
        ("release", "scale"),
        [
            ("deepseek-ai/DeepSeek-V3", 0.1352337788608801),
            ("deepseek-ai/DeepSeek-R1", 0.1352337788608801),
            ("moonshotai/Kimi-K2-Instruct", 0.1308607999629500),
            ("moonshotai/Kimi-K2-Thinking", 0.1446796258026892),
        ],
    )
    def test_of_the_releases(self, release: str, scale: float) -> None:
        for layer in refimpl.blueprint(release).layers:
            assert isinstance(layer.mixer, LatentAttention)
            assert math.isclose(layer.mixer.scale, scale, rel_tol=1e-15)
            assert layer.mixer.rope is not None
            assert layer.mixer.rope.attention_factor == 1.0

    @pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 40.0}, YARN, {**YARN, "mscale_all_dim": 0}])
    def test_is_that_of_the_width_where_no_mscale_all_dim_says_otherwise(self, scaling: dict[str, Any] | None) -> None:
        assert mixer(config(rope_scaling=scaling)).scale == 10**-0.5

    @pytest.mark.parametrize("mscales", [{"mscale_all_dim": 0.7}, {"mscale": 1.3, "mscale_all_dim": 0.7}])
    def test_has_the_square_of_the_factor_of_all_dimensions(self, mscales: dict[str, float]) -> None:
        m = 0.07 * math.log(40) + 1
        found = mixer(config(rope_scaling={**YARN, **mscales}))
        assert math.isclose(found.scale, 10**-0.5 * m**2, rel_tol=1e-15)

    def test_cos_and_sin_have_the_quotient(self) -> None:
        rope = mixer(config(rope_scaling={**YARN, "mscale": 1.3, "mscale_all_dim": 0.7})).rope
        assert rope is not None
        assert math.isclose(rope.attention_factor, (0.13 * math.log(40) + 1) / (0.07 * math.log(40) + 1), rel_tol=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1 but latent attention has as many as num_attention_heads = 3"),
        ({"qk_rope_head_dim": 5}, "qk_rope_head_dim is 5 but rotated entries go in pairs"),
        ({"kv_lora_rank": 0}, "kv_lora_rank is 0 but needs a positive integer"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0 but needs a positive integer"),
        ({"v_head_dim": None}, "v_head_dim is None but needs an integer"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax' but 'deepseek_v3' supports 'sigmoid'"),
        ({"topk_method": "greedy"}, "topk_method is 'greedy' but 'deepseek_v3' supports 'noaux_tc'"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2 but 'deepseek_v3' supports 1"),
        ({"n_group": 5}, "4 of 5 groups cannot be chosen from 16 experts"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9 but a token chooses among 8 of 16 experts"),
        ({"sliding_window": 7}, "unknown key 'sliding_window'"),
    ],
)
def test_what_is_wrong_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {re.escape(message)}"):
        refimpl.blueprint(config(**changes))


def test_kimi_k2_is_read_alike() -> None:
    ours, theirs = (refimpl.blueprint(config(model_type=name)) for name in ("kimi_k2", "deepseek_v3"))
    assert (ours.architecture, ours.layers, ours.parameters()) == ("kimi_k2", theirs.layers, theirs.parameters())


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config(attention_bias=True))
    published, held = (layout.leaves(blueprint.parameters()) for layout in blueprint.layouts)

    def of(part: str, names: Any) -> set[str]:
        return {name.removeprefix(part) for name in names if name.startswith(part)}

    projections = {"q_a_proj", "kv_a_proj_with_mqa", "o_proj"}
    attention = {f"{name}.{kind}" for name in projections for kind in ("weight", "bias")}
    attention |= {f"{name}.weight" for name in ("q_a_layernorm", "q_b_proj", "kv_a_layernorm", "kv_b_proj")}
    for names in (published, held):
        assert of("model.layers.0.self_attn.", names) == attention
    matrices = ("gate_proj", "up_proj", "down_proj")
    beside = {"gate.weight", "gate.e_score_correction_bias", *(f"shared_experts.{name}.weight" for name in matrices)}
    experts = {f"experts.{expert}.{name}.weight" for expert in range(16) for name in matrices}
    assert of("model.layers.3.mlp.", published) == beside | experts
    assert of("model.layers.3.mlp.", held) == {*beside, "experts.gate_up_proj", "experts.down_proj"}
    assert published["model.layers.3.self_attn.kv_a_proj_with_mqa.weight"].shape == (13, 24)
    assert published["model.layers.3.self_attn.kv_b_proj.weight"].shape == (39, 9)


@pytest.mark.parametrize(
    ("release", "total", "active"),
    [
        ("deepseek-ai/DeepSeek-V3", 671_026_404_352, 37_552_282_624),
        ("deepseek-ai/DeepSeek-R1", 671_026_404_352, 37_552_282_624),
        ("moonshotai/Kimi-K2-Instruct", 1_026_408_209_408, 32_861_477_888),
        ("moonshotai/Kimi-K2-Thinking", 1_026_408_209_408, 32_861_477_888),
    ],
)
def test_parameters_of_the_releases(release: str, total: int, active: int) -> None:
    blueprint = refimpl.blueprint(release)
    assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (total, active)


def test_cache_bytes_of_both_forms() -> None:
    blueprint = refimpl.blueprint("moonshotai/Kimi-K2-Instruct")
    assert blueprint.cache_bytes(1) == 61 * (512 + 64) * 2
    assert blueprint.expanded().cache_bytes(1) == 61 * 64 * (192 + 128) * 2


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 40], "activation_scheme": "dynamic"}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}


class TestStorage:
    """One model in every format that releases come in."""

    SIZES = config(
        hidden_size=64, moe_intermediate_size=32, num_hidden_layers=3, n_group=4, topk_group=2, first_k_dense_replace=1
    )

    def weights(self) -> dict[str, np.ndarray]:
        """Multiples of a power of two up to 7, which FP8 with such scales and INT4 hold exactly, the largest in every group."""
        rng = np.random.default_rng(3)
        found: dict[str, np.ndarray] = {}
        for name, shape in refimpl.blueprint(self.SIZES).parameters().items():
            array = rng.integers(-7, 8, shape).astype(np.float64)
            array[..., ::16] = 7
            found[name] = array * 2.0**-5
        return found

    def write(self, directory: Path, **quantised: Any) -> np.ndarray:
        """The weights in a checkpoint, and its logits."""
        values = {**self.SIZES, **quantised}
        tensors = refimpl.blueprint(values).layouts[0].write(self.weights())
        save_checkpoint(directory, values, tensors)
        return self.logits(directory)

    def logits(self, directory: Path, **options: Any) -> np.ndarray:
        logits, _ = refimpl.load(directory, dtype="float64", **options)(np.arange(22).reshape(2, 11))
        return logits

    @pytest.mark.parametrize("scales", [{}, {"scale_fmt": "ue8m0"}])
    def test_fp8_blocks_of_representable_weights_give_the_logits_of_the_plain_ones(self, tmp_path: Path, scales: Any) -> None:
        scaled = {**FP8, **scales} if scales else FP8
        plain = self.write(tmp_path / "plain")
        assert np.isfinite(plain).all()
        assert np.abs(plain).max() > 0
        found = self.write(tmp_path / "fp8", quantization_config=scaled)
        if scales:
            assert np.array_equal(found, plain)
        else:
            np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())

    def test_int4_groups_give_the_logits_of_the_plain_weights(self, tmp_path: Path) -> None:
        plain = self.write(tmp_path / "plain")
        assert np.array_equal(self.write(tmp_path / "int4", quantization_config=INT4), plain)

    @pytest.mark.parametrize("quantised", [FP8, INT4])
    def test_any_weights_give_the_logits_of_what_they_are_decoded_to(self, tmp_path: Path, quantised: Any) -> None:
        model = refimpl.init(self.SIZES, seed=5, dtype="float64")
        values = {**self.SIZES, "quantization_config": quantised}
        save_checkpoint(tmp_path / "few_bits", values, refimpl.blueprint(values).layouts[0].write(model.weights))
        decoded = refimpl.load(tmp_path / "few_bits", dtype="float64").weights
        save_checkpoint(
            tmp_path / "plain", self.SIZES, model.blueprint.layouts[0].write({name: decoded[name] for name in decoded})
        )
        found = self.logits(tmp_path / "few_bits")
        assert np.array_equal(found, self.logits(tmp_path / "plain"))
        assert np.array_equal(found, self.logits(tmp_path / "few_bits", stream=True))
        assert not np.array_equal(found, model(np.arange(22).reshape(2, 11))[0]), "rounding to a few bits shows"

    def test_which_weights_are_in_few_bits(self) -> None:
        fp8, int4 = (
            refimpl.blueprint({**self.SIZES, "quantization_config": each})
            .layouts[0]
            .leaves(refimpl.blueprint(self.SIZES).parameters())
            for each in (FP8, INT4)
        )
        scaled = {re.sub(r"\d+", "N", name) for name in fp8 if name.endswith("_scale_inv")}
        mixer = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
        modules = {f"self_attn.{name}" for name in mixer}
        modules |= {
            f"mlp.{part}{name}_proj" for part in ("", "experts.N.", "shared_experts.") for name in ("gate", "up", "down")
        }
        assert scaled == {f"model.layers.N.{module}.weight_scale_inv" for module in modules}
        packed = {re.sub(r"\d+", "N", name) for name in int4 if name.endswith("_packed")}
        assert packed == {f"model.layers.N.mlp.experts.N.{name}_proj.weight_packed" for name in ("gate", "up", "down")}

    def test_a_missing_scale_is_one_sentence(self, tmp_path: Path) -> None:
        values = {**self.SIZES, "quantization_config": FP8}
        tensors = refimpl.blueprint(values).layouts[0].write(self.weights())
        del tensors["model.layers.2.mlp.experts.4.up_proj.weight_scale_inv"]
        save_checkpoint(tmp_path, values, tensors)
        with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.experts\.4\.up_proj\.weight_scale_inv"):
            refimpl.load(tmp_path)


class TestForms:
    """Both forms are one model."""

    VALUES = config(rope_scaling={**YARN, "mscale": 1.3, "mscale_all_dim": 0.7}, attention_bias=True)
    TOKENS = np.random.default_rng(2).integers(0, 53, (2, 13))

    def model(self, expanded: bool = False) -> refimpl.Model:
        model = refimpl.init(self.VALUES, seed=8, dtype="float64")
        return model.expanded() if expanded else model

    def test_their_logits_agree(self) -> None:
        absorbed, expanded = (self.model(form)(self.TOKENS)[0] for form in (False, True))
        np.testing.assert_allclose(absorbed, expanded, rtol=0, atol=1e-13 * np.abs(expanded).max())
        assert not np.array_equal(absorbed, expanded), "two computations, not one"

    @FORMS
    def test_pieces_and_padding(self, expanded: bool) -> None:
        model = self.model(expanded)
        mask = np.ones_like(self.TOKENS)
        mask[1, :5] = 0
        whole, _ = model(self.TOKENS, attention_mask=mask)
        first, cache = model(self.TOKENS[:, :7], attention_mask=mask[:, :7])
        rest, cache = model(self.TOKENS[:, 7:], cache, attention_mask=mask)
        pieces = np.concatenate([first, rest], axis=1)
        alone, _ = model(self.TOKENS[1:, 5:])
        atol = 1e-13 * np.abs(whole).max()
        np.testing.assert_allclose(pieces[mask == 1], whole[mask == 1], rtol=0, atol=atol)
        np.testing.assert_allclose(whole[1, 5:], alone[0], rtol=0, atol=atol)
        assert cache.nbytes() == 2 * model.blueprint.cache_bytes(13, "bfloat16") * 4  # two rows, float64

    def test_a_cache_of_the_other_form_is_one_sentence(self) -> None:
        _, cache = self.model()(self.TOKENS)
        with pytest.raises(ValueError, match="the cache holds other tensors than the model keeps"):
            self.model(expanded=True)(self.TOKENS, cache)

    def test_the_expanded_form_costs_less_a_step_and_keeps_more(self) -> None:
        absorbed = refimpl.blueprint("deepseek-ai/DeepSeek-V3")
        expanded = absorbed.expanded()
        difference = absorbed.flops(1000) - expanded.flops(1000)
        assert difference == 61 * 2 * 1000 * 128 * ((576 + 512) - (192 + 128))
        assert absorbed.flops(0) == expanded.flops(0)
