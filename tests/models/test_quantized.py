"""Which weights `quantization_config` says to be stored in a few bits, under which names, and what it may not say."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import refimpl
from refimpl.checkpoint import CheckpointError, save_checkpoint
from refimpl.lint import lint
from refimpl.quantized_storage import FP8_SCALES
from refimpl.storage import STORED_FLOATS
from tests.tiny import tokens, without

LAYERS, EXPERTS = 2, 3
MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "vocab_size": 53,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
}
# 24 divides none of the sizes.
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 24]}
INT4_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True, "dynamic": False}
FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 24], "symmetric": True}
INT4_IGNORE = ["lm_head", "re:.*self_attn.*"]


def config(quantised: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {**MINIMAX_M2, **changes, **({} if quantised is None else {"quantization_config": quantised})}


def compressed(format: str, weights: dict[str, Any], ignore: list[str] | None = None, /, **group: Any) -> dict[str, Any]:
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None, **group}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": scheme},
        "ignore": ignore,
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


INT4 = compressed("pack-quantized", INT4_WEIGHTS, INT4_IGNORE)
FP8_BLOCKS = compressed("float-quantized", FP8_WEIGHTS, ["lm_head"])
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MATRICES = {f"block_sparse_moe.experts.{expert}.w{matrix}" for expert in range(EXPERTS) for matrix in (1, 2, 3)}


def leaves(values: Any, layout: int = 0) -> dict[str, Any]:
    blueprint = refimpl.blueprint(values)
    return blueprint.layouts[layout].leaves(blueprint.parameters())


def suffixed(values: dict[str, Any], suffix: str) -> set[str]:
    """The modules of the last layer that have a tensor of that name, and any others by their whole names."""
    found = {name.removesuffix(suffix) for name in leaves(values) if name.endswith(suffix)}
    return {name.removeprefix("model.layers.1.") for name in found if not name.startswith("model.layers.0.")}


class TestWhich:
    def test_fp8_is_every_linear_map_of_the_layers_but_the_router(self) -> None:
        assert suffixed(config(FP8), ".weight_scale_inv") == ATTENTION | MATRICES
        assert leaves(config(FP8)).keys() == leaves(config()).keys() | {
            f"model.layers.{layer}.{module}.weight_scale_inv" for layer in range(LAYERS) for module in ATTENTION | MATRICES
        }

    def test_fp8_has_shapes_of_the_configured_blocks(self) -> None:
        found = leaves(config(FP8))
        projection, down = "model.layers.1.self_attn.k_proj", "model.layers.0.block_sparse_moe.experts.2.w2"
        assert (found[f"{projection}.weight"].shape, found[f"{projection}.weight"].formats) == ((16, 64), ("F8_E4M3",))
        assert found[f"{projection}.weight_scale_inv"].shape == (1, 3)
        assert found[f"{projection}.weight_scale_inv"].formats == FP8_SCALES
        assert found[f"{down}.weight_scale_inv"].shape == (4, 2)
        assert found["model.layers.0.block_sparse_moe.gate.weight"].formats == STORED_FLOATS

    @pytest.mark.parametrize(
        ("names", "plain"),
        [
            (None, set()),
            (["gate", "e_score_correction_bias", "lm_head"], set()),
            (["o_proj"], {"self_attn.o_proj"}),
            (["model.layers.1.self_attn"], ATTENTION),
            (["model.layers.1.self_at"], set()),
            (["model.layers.0.self_attn"], set()),
            ([r"model.layers.\d+.self_attn"], ATTENTION),
            (["experts.1.w2", "self_attn.q_proj"], {"block_sparse_moe.experts.1.w2", "self_attn.q_proj"}),
        ],
    )
    def test_fp8_leaves_out_modules_by_the_beginning_or_the_end_of_their_names(self, names: Any, plain: set[str]) -> None:
        values = config({**FP8, "modules_to_not_convert": names})
        assert suffixed(values, ".weight_scale_inv") == (ATTENTION | MATRICES) - plain

    @pytest.mark.parametrize(
        ("fmt", "formats"),
        [("e4m3", "F8_E4M3"), ("float8_e4m3fn", "F8_E4M3"), ("e5m2", "F8_E5M2"), ("float8_e5m2", "F8_E5M2")],
    )
    def test_fp8_has_two_formats(self, fmt: str, formats: str) -> None:
        assert leaves(config({**FP8, "fmt": fmt}))["model.layers.0.self_attn.q_proj.weight"].formats == (formats,)

    @pytest.mark.parametrize(
        ("ignore", "plain"),
        [
            (None, set()),
            (INT4_IGNORE, ATTENTION),
            (["re:self_attn.*"], set()),
            (["re:.*self_attn"], ATTENTION),
            ([r"re:.*\.w(1|3)$"], {name for name in MATRICES if name[-1] in "13"}),
            (["model.layers.1.self_attn.k_proj"], {"self_attn.k_proj"}),
            (["self_attn.k_proj"], set()),
            (["model.layers.1.self_attn"], set()),
        ],
    )
    def test_ignored_are_whole_names_and_patterns_from_their_beginning(self, ignore: Any, plain: set[str]) -> None:
        values = config(compressed("float-quantized", FP8_WEIGHTS, ignore))
        assert suffixed(values, ".weight_scale") == (ATTENTION | MATRICES) - plain

    def test_int4_groups(self) -> None:
        for suffix in (".weight_packed", ".weight_scale", ".weight_shape"):
            assert suffixed(config(INT4), suffix) == MATRICES
        found, expert = leaves(config(INT4)), "model.layers.1.block_sparse_moe.experts.2"
        assert [found[f"{expert}.w1.weight_{part}"].shape for part in ("packed", "scale", "shape")] == [(32, 8), (32, 2), (2,)]
        assert [found[f"{expert}.w2.weight_{part}"].shape for part in ("packed", "scale", "shape")] == [(64, 4), (64, 1), (2,)]
        assert f"{expert}.w1.weight" not in found

    def test_blocks_of_compressed_tensors_have_scales_of_another_name(self) -> None:
        found = leaves(config(FP8_BLOCKS))
        assert found["model.layers.1.self_attn.q_proj.weight"].formats == ("F8_E4M3",)
        assert found["model.layers.1.self_attn.q_proj.weight_scale"].shape == (3, 3)
        assert not any(name.endswith("_inv") for name in found)

    @pytest.mark.parametrize("quantised", [FP8, INT4, FP8_BLOCKS])
    def test_stacks_as_transformers_holds_them_stay_as_they_are(self, quantised: dict[str, Any]) -> None:
        assert leaves(config(quantised), layout=1) == leaves(config(), layout=1)

    @pytest.mark.parametrize("quantised", [FP8, INT4, FP8_BLOCKS])
    def test_the_model_itself_is_the_same(self, quantised: dict[str, Any]) -> None:
        plain, stored = refimpl.blueprint(config()), refimpl.blueprint(config(quantised))
        assert (plain.layers, plain.parameters()) == (stored.layers, stored.parameters())


def stored_entries(release: str) -> Counter[tuple[str, ...]]:
    """How many numbers of each stored form a release has, its modules for multi-token prediction included."""
    found: Counter[tuple[str, ...]] = Counter()
    for leaf in leaves(release).values():
        found[leaf.formats] += prod(leaf.shape)
    return found


class TestReleases:
    def test_the_numbers_of_deepseek_v3_are_stored_as_published(self) -> None:
        """The hub counts F8 680,571,043,840, F32 41,555,600 and BF16 3,918,786,560."""
        found = stored_entries("deepseek-ai/DeepSeek-V3")
        corrections, copies = 59 * 256, 2 * 129280 * 7168
        assert found["F8_E4M3",] == 680_571_043_840
        assert found[FP8_SCALES] + corrections == 41_555_600
        assert found[STORED_FLOATS] - corrections + copies == 3_918_786_560

    def test_kimi_k2_thinking_packs_its_routed_experts(self) -> None:
        found = stored_entries("moonshotai/Kimi-K2-Thinking")
        entries = 60 * 384 * 3 * 2048 * 7168
        assert found["I32",] == entries // 8
        assert found["F32", "BF16", "F16"] == entries // 32
        assert found["I32", "I64"] == 60 * 384 * 3 * 2

    @pytest.mark.parametrize(
        ("release", "short"),
        [
            ("MiniMaxAI/MiniMax-M2", 0),
            ("mistralai/Mistral-Large-3-675B-Instruct-2512", 0),
            ("moonshotai/Kimi-K2-Instruct", 61 * 7168 // 128),
        ],
    )
    def test_the_matrices_of_a_release_are_in_eight_bits(self, release: str, short: int) -> None:
        """short: its blocks of half the rows, those of the 576 rows of a projection."""
        found = stored_entries(release)
        assert found["F8_E4M3",] > 0.99 * sum(found.values())
        assert 2 * (found[FP8_SCALES] * 128**2 - found["F8_E4M3",]) == short * 128**2


class TestErrors:
    @pytest.mark.parametrize(
        ("quantised", "message"),
        [
            ({}, "key 'quant_method' is missing and 'minimax_m2' needs it"),
            ({"quant_method": "gptq"}, "quant_method is 'gptq' but 'minimax_m2' supports 'fp8', 'compressed-tensors'"),
            (without(FP8, "weight_block_size"), "key 'weight_block_size' is missing"),
            ({**FP8, "weight_block_size": None}, "weight_block_size is None but needs a list"),
            ({**FP8, "weight_block_size": [128]}, r"weight_block_size is \[128\] but needs two positive integers"),
            ({**FP8, "weight_block_size": [128, 0]}, r"weight_block_size is \[128, 0\] but needs two positive integers"),
            ({**FP8, "weight_block_size": [True, 8]}, r"weight_block_size is \[True, 8\] but needs two positive integers"),
            ({**FP8, "fmt": "e3m4"}, "fmt is 'e3m4' but 'minimax_m2' supports 'e4m3'"),
            ({**FP8, "activation_scheme": "static"}, "activation_scheme is 'static' but 'minimax_m2' supports 'dynamic'"),
            ({**FP8, "scale_fmt": "e8"}, "scale_fmt is 'e8' but 'minimax_m2' supports 'float', 'ue8m0'"),
            ({**FP8, "expert_dtype": "fp4"}, "expert_dtype is 'fp4' but 'minimax_m2' supports 'fp8'"),
            ({**FP8, "modules_to_convert": ["lm_head"]}, "modules_to_convert is .* does not support here"),
            ({**FP8, "modules_to_not_convert": ["("]}, r"modules_to_not_convert has '\(', which is no regular expression"),
            ({**FP8, "modules_to_not_convert": [3]}, "modules_to_not_convert has 3 but needs names of modules"),
            ({**FP8, "group_size": 3}, "unknown key 'group_size'"),
            ({**INT4, "format": "marlin-24"}, "format is 'marlin-24' but 'minimax_m2' supports 'pack-quantized', 'float-"),
            ({**INT4, "config_groups": {}}, r"config_groups is \{\} but 'minimax_m2' supports one group"),
            ({**INT4, "ignore": ["re:["]}, r"ignore has 're:\[', which is no regular expression"),
            ({**INT4, "kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is .* does not support here"),
            ({**INT4, "format": "float-quantized"}, "num_bits is 4 but 'minimax_m2' supports 8"),
            (compressed("pack-quantized", INT4_WEIGHTS, targets=["Conv"]), r"targets is \['Conv'\] but"),
            (compressed("pack-quantized", INT4_WEIGHTS, output_activations={"num_bits": 8}), "output_activations is"),
            (compressed("pack-quantized", INT4_WEIGHTS, format="dense"), "format is 'dense' but 'minimax_m2' supports 'pack-"),
            *(
                (compressed("pack-quantized", {**INT4_WEIGHTS, key: value}, INT4_IGNORE), f"{key} is {value!r}")
                for key, value in (
                    ("num_bits", 8),
                    ("type", "float"),
                    ("strategy", "channel"),
                    ("symmetric", False),
                    ("dynamic", True),
                    ("actorder", "weight"),
                    ("group_size", 12),
                    ("group_size", 0),
                )
            ),
            (compressed("pack-quantized", {**INT4_WEIGHTS, "block_structure": [8, 8]}), "block_structure is"),
            (compressed("pack-quantized", without(INT4_WEIGHTS, "group_size")), "key 'group_size' is missing"),
            (compressed("pack-quantized", {**INT4_WEIGHTS, "colour": 3}), "unknown key 'colour'"),
            (compressed("float-quantized", {**FP8_WEIGHTS, "num_bits": 4}), "num_bits is 4 but 'minimax_m2' supports 8"),
            (compressed("float-quantized", {**FP8_WEIGHTS, "group_size": 128}), "group_size is 128"),
            (compressed("float-quantized", without(FP8_WEIGHTS, "block_structure")), "key 'block_structure' is missing"),
            (
                compressed("pack-quantized", INT4_WEIGHTS),
                "group_size is 32 but the rows of 'layers.0.mixer.o_proj.weight' have 48 entries",
            ),
        ],
    )
    def test_what_has_no_recipe_is_one_sentence(self, quantised: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {message}"):
            refimpl.blueprint(config(quantised))
        assert [finding.kind for finding in lint(config(quantised))].count("error") == 1

    @pytest.mark.parametrize("quantised", [FP8, {**FP8, "scale_fmt": "ue8m0", "modules_to_not_convert": []}, INT4, FP8_BLOCKS])
    def test_every_key_has_a_meaning(self, quantised: dict[str, Any]) -> None:
        findings = lint(config(quantised))
        assert not [finding for finding in findings if finding.kind == "error"]
        assert any(finding.key.startswith("quantization_config.") and finding.kind == "used" for finding in findings)


class TestCheckpoints:
    @staticmethod
    def saved(directory: Path, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
        return save_checkpoint(directory, values, refimpl.blueprint(values).layouts[0].write(arrays)) or directory

    @staticmethod
    def logits(directory: Path, dtype: str, *, stream: bool = False) -> np.ndarray:
        return refimpl.load(directory, dtype, stream=stream)(tokens(2, 5))[0]

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("quantised", [FP8, {**FP8, "fmt": "e5m2", "scale_fmt": "ue8m0"}, INT4, FP8_BLOCKS])
    def test_logits_are_those_of_the_decoded_weights(
        self, tmp_path: Path, quantised: dict[str, Any], dtype: str, stream: bool
    ) -> None:
        weights = dict(refimpl.init(config(), dtype=dtype).weights)
        self.saved(tmp_path / "quantised", config(quantised), weights)
        decoded = dict(refimpl.load(tmp_path / "quantised", dtype).weights)
        assert not np.array_equal(
            decoded["layers.0.mlp.experts.up_proj.weight"], weights["layers.0.mlp.experts.up_proj.weight"]
        )
        self.saved(tmp_path / "plain", config(), decoded)
        plain = self.logits(tmp_path / "plain", dtype)
        np.testing.assert_array_equal(self.logits(tmp_path / "quantised", dtype, stream=stream), plain)
        assert not np.array_equal(plain, refimpl.init(config(), dtype=dtype)(tokens(2, 5))[0])

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_one_set_of_weights_in_four_formats_gives_the_same_logits(self, tmp_path: Path, dtype: str) -> None:
        arrays = {name: self.small(array) for name, array in refimpl.init(config()).weights.items()}
        found = []
        for index, quantised in enumerate([None, FP8, {**FP8, "scale_fmt": "ue8m0"}, INT4, FP8_BLOCKS]):
            self.saved(tmp_path / str(index), config(quantised), arrays)
            found.append(self.logits(tmp_path / str(index), dtype))
        for one in found[1:]:
            np.testing.assert_array_equal(one, found[0])

    @staticmethod
    def small(array: np.ndarray) -> np.ndarray:
        """bfloat16 numbers of a matrix that are whole multiples, -7 to 7, of 1/64; 7 is in every group and block."""
        if array.ndim < 2:
            return array.astype(ml_dtypes.bfloat16)
        whole = np.clip(np.round(array * 24), -7, 7)
        whole[..., ::8] = 7
        return (whole / 64).astype(ml_dtypes.bfloat16)

    def test_a_plain_checkpoint_is_not_what_the_configuration_says(self, tmp_path: Path) -> None:
        arrays = dict(refimpl.init(config()).weights)
        save_checkpoint(tmp_path, config(FP8), refimpl.blueprint(config()).layouts[0].write(arrays))
        with pytest.raises(
            CheckpointError, match=r"26 tensors are \('model.layers.0.self_attn.q_proj.weight_scale_inv', .* missing$"
        ):
            refimpl.load(tmp_path)

    def test_a_quantised_checkpoint_of_another_format(self, tmp_path: Path) -> None:
        arrays = dict(refimpl.init(config()).weights)
        self.saved(tmp_path, config(FP8), arrays)
        save_checkpoint(tmp_path, config({**FP8, "fmt": "e5m2"}), refimpl.blueprint(config(FP8)).layouts[0].write(arrays))
        with pytest.raises(CheckpointError, match=r"is stored as F8_E4M3, but 'minimax_m2' is read from F8_E5M2$"):
            refimpl.load(tmp_path)

    def test_a_block_size_that_is_not_that_of_the_file(self, tmp_path: Path) -> None:
        arrays = dict(refimpl.init(config()).weights)
        other = config({**FP8, "weight_block_size": [16, 32]})
        save_checkpoint(tmp_path, other, refimpl.blueprint(config(FP8)).layouts[0].write(arrays))
        with pytest.raises(
            CheckpointError, match=r"weight_scale_inv' has shape \(3, 3\) but the configuration makes it \(3, 2\)"
        ):
            refimpl.load(tmp_path)
