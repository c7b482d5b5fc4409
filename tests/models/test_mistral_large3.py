"""What Mistral Large 3 reads from a params.json, and the names of its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import LatentAttention, LogFloor, MoE, SoftmaxTopK
from refimpl.checkpoint import CheckpointError, save_checkpoint
from refimpl.lint import lint
from refimpl.models import from_config
from tests.tiny import without

RELEASE = "mistralai/Mistral-Large-3-675B-Instruct-2512"
MOE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "expert_hidden_dim": 11,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_expert_groups": 1,
    "num_expert_groups_per_tok": 1,
    "route_every_n": 1,
    "routed_scale": 1.0,
    "expert_parallel": 1,
    "expert_model_parallel": 1,
}
YARN = {"factor": 4, "original_max_position_embeddings": 16, "beta": 2, "alpha": 1, "apply_scale": False}
PARAMS = {
    "dim": 20,
    "n_layers": 3,
    "n_heads": 3,
    "n_kv_heads": 3,
    "head_dim": 12,
    "hidden_dim": 26,
    "vocab_size": 53,
    "norm_eps": 1e-4,
    "rope_theta": 100.0,
    "tied_embeddings": False,
    "q_lora_rank": 14,
    "kv_lora_rank": 9,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "max_position_embeddings": 64,
    "llama_4_scaling": {"beta": 0.3, "original_max_position_embeddings": 5},
    "moe": MOE,
    "yarn": YARN,
}
FP8 = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["model.embed_tokens", "re:.*kv_a_proj_with_mqa$", "re:.*q_a_proj$", "re:.*gate$", "lm_head"],
    "config_groups": {
        "FP8_BLOCK": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [8, 5]},
        }
    },
}


def params(**changes: Any) -> dict[str, Any]:
    return {**PARAMS, **changes}


def moe(**changes: Any) -> dict[str, Any]:
    return params(moe={**MOE, **changes})


def yarn(**changes: Any) -> dict[str, Any]:
    return params(yarn={**YARN, **changes})


def mixer(values: dict[str, Any]) -> LatentAttention:
    found = refimpl.blueprint(values).layers[0].mixer
    assert isinstance(found, LatentAttention)
    return found


class TestTheConfiguration:
    def test_a_params_json_is_known_by_its_keys(self) -> None:
        assert refimpl.blueprint(PARAMS).architecture == "mistral_large3"

    def test_sizes(self) -> None:
        read = mixer(PARAMS)
        assert (read.hidden_size, read.heads, read.q_lora_rank, read.kv_lora_rank) == (20, 3, 14, 9)
        assert (read.nope_head_dim, read.rope_head_dim, read.v_head_dim, read.bias) == (8, 4, 7, False)

    def test_one_eps_is_that_of_every_norm(self) -> None:
        blueprint = refimpl.blueprint(PARAMS)
        layer = blueprint.layers[0]
        assert {layer.mixer_norm.eps, layer.mlp_norm.eps, mixer(PARAMS).norm_eps, blueprint.final_norm.eps} == {1e-4}

    def test_pairs_are_neighbours(self) -> None:
        rope = mixer(PARAMS).rope
        assert rope is not None
        assert (rope.interleaved, rope.rotary_dim, rope.theta) == (True, 4, 100.0)

    def test_beta_is_the_fast_bound_and_alpha_the_slow_one(self) -> None:
        scaling: Any = mixer(PARAMS).rope.scaling  # type: ignore[union-attr]
        assert (scaling.factor, scaling.original_max_position_embeddings) == (4.0, 16)
        assert (scaling.beta_fast, scaling.beta_slow, scaling.truncate) == (2.0, 1.0, True)

    @pytest.mark.parametrize(("apply_scale", "m"), [(False, 1.0), (True, 1 + 0.1 * np.log(4))])
    def test_apply_scale_multiplies_the_softmax_and_never_cos_and_sin(self, apply_scale: bool, m: float) -> None:
        read = mixer(yarn(apply_scale=apply_scale))
        assert read.scale == pytest.approx(12**-0.5 * m**2, rel=1e-15)
        assert read.rope is not None
        assert read.rope.attention_factor == 1.0

    def test_engines_scale_where_nothing_is_said(self) -> None:
        values = params(yarn=without(YARN, "apply_scale"))
        assert mixer(values) == mixer(yarn(apply_scale=True))

    def test_no_yarn(self) -> None:
        for values in (params(yarn=None), without(PARAMS, "yarn")):
            read = mixer(values)
            assert read.rope is not None
            assert (read.rope.scaling, read.scale) == (None, 12**-0.5)

    def test_the_temperature_is_on_every_layer_and_counts_from_0(self) -> None:
        layers = refimpl.blueprint(PARAMS).layers
        assert {layer.mixer.temperature for layer in layers} == {LogFloor(scale=0.3, floor=5, offset=0)}  # type: ignore[attr-defined]
        assert mixer(params(llama_4_scaling=None)).temperature is None
        assert mixer(without(PARAMS, "llama_4_scaling")).temperature is None

    @pytest.mark.parametrize(("first", "expected"), [(0, [1, 1, 1]), (2, [0, 0, 1]), (9, [0, 0, 0])])
    def test_the_first_layers_are_dense(self, first: int, expected: list[int]) -> None:
        layers = refimpl.blueprint(moe(first_k_dense_replace=first)).layers
        assert [isinstance(layer.mlp, MoE) for layer in layers] == expected

    def test_the_mixture(self) -> None:
        mixture: Any = refimpl.blueprint(moe(num_shared_experts=2)).layers[1].mlp
        assert mixture.router == SoftmaxTopK(hidden_size=20, experts=6, top_k=2, renormalise=True)
        assert (mixture.experts.intermediate_size, mixture.shared.intermediate_size) == (11, 22)
        without_shared: Any = refimpl.blueprint(moe(num_shared_experts=0)).layers[1].mlp
        assert without_shared.shared is None

    def test_heads_that_follow_need_not_be_there(self) -> None:
        assert mixer(without(PARAMS, "n_kv_heads", "head_dim")) == mixer(PARAMS)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (params(n_kv_heads=1), "n_kv_heads is 1 but the other keys make it 3"),
            (params(head_dim=8), "head_dim is 8 but the other keys make it 12"),
            (params(qk_rope_head_dim=5, head_dim=13), "qk_rope_head_dim is 5 but rotated entries go in pairs"),
            (params(q_lora_rank=None), "q_lora_rank is None but needs an integer"),
            (params(norm_eps=-1.0), "norm_eps is -1.0 but needs a number of at least 0"),
            (params(rope_theta=1.0), "rope_theta is 1.0 but needs a number above 1"),
            (params(activation="gelu"), "activation is 'gelu' but 'mistral_large3' supports 'silu'"),
            (params(sliding_window=7), "unknown key 'sliding_window'"),
            (params(hidden_size=20), "unknown key 'hidden_size'"),
            (without(PARAMS, "norm_eps"), "key 'norm_eps' is missing and 'mistral_large3' needs it"),
            (without(PARAMS, "moe"), "key 'moe' is missing and 'mistral_large3' needs it"),
            (yarn(beta=0), "beta is 0.0 but needs a positive number"),
            (yarn(betta=3), "unknown key 'betta' .* did you mean 'beta'"),
            (yarn(apply_scale=1), "apply_scale is 1 but needs true or false"),
            (params(llama_4_scaling={"beta": 0.1}), "key 'original_max_position_embeddings' is missing"),
            (moe(num_expert_groups=2), "num_expert_groups is 2 but 'mistral_large3' supports 1"),
            (moe(num_expert_groups_per_tok=2), "num_expert_groups_per_tok is 2 but"),
            (moe(route_every_n=2), "route_every_n is 2 but 'mistral_large3' supports 1"),
            (moe(routed_scale=2.5), "routed_scale is 2.5 but 'mistral_large3' supports 1.0"),
            (moe(num_experts_per_tok=7), "num_experts_per_tok is 7 but there are 6 experts"),
            (moe(num_shared_experts=-1), "num_shared_experts is -1 but needs a number of at least 0"),
            (moe(topk=2), "unknown key 'topk'"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {message}"):
            from_config(values)


class TestLint:
    def test_a_right_file_has_no_error(self) -> None:
        found = {finding.key: finding.kind for finding in lint(PARAMS)}
        assert "error" not in found.values()
        assert (found["dim"], found["yarn.apply_scale"], found["activation"]) == ("used", "used", "default")
        assert (found["max_position_embeddings"], found["moe.expert_parallel"]) == ("ignored", "ignored")

    def test_a_wrong_one_names_its_own_key(self) -> None:
        texts = [finding.text for finding in lint(params(n_kv_heads=1)) if finding.kind == "error"]
        assert texts == ["config: n_kv_heads is 1 but the other keys make it 3"]


class TestTheDirectory:
    def write(self, directory: Path, values: dict[str, Any], **options: Any) -> refimpl.Model:
        model = refimpl.init(values, seed=4)
        save_checkpoint(directory, values, model.blueprint.layouts[0].write(model.weights), **options)
        return model

    def tokens(self) -> np.ndarray:
        return np.random.default_rng(5).integers(0, 53, (2, 9))

    @pytest.mark.parametrize("max_shard_bytes", [None, 9000])
    @pytest.mark.parametrize("stream", [False, True])
    def test_round_trip(self, tmp_path: Path, max_shard_bytes: int | None, stream: bool) -> None:
        model = self.write(tmp_path, PARAMS, max_shard_bytes=max_shard_bytes)
        assert (tmp_path / "params.json").exists()
        assert not (tmp_path / "config.json").exists()
        assert all(file.name.startswith("consolidated") for file in tmp_path.glob("*.safetensors*"))
        loaded = refimpl.load(tmp_path, "float32", stream=stream)
        assert np.array_equal(loaded(self.tokens())[0], model(self.tokens())[0])

    def test_it_is_shown_from_the_directory_and_from_the_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, PARAMS)
        for source in (tmp_path, tmp_path / "params.json"):
            assert refimpl.blueprint(source).num_parameters() == refimpl.blueprint(PARAMS).num_parameters()

    def test_the_vision_encoder_is_passed_by(self, tmp_path: Path) -> None:
        values = params(vision_encoder={"hidden_size": 16})
        model = refimpl.init(values, seed=4)
        tensors = model.blueprint.layouts[0].write(model.weights)
        beside = ("vision_encoder.ln_pre.weight", "vision_language_adapter.w_in.weight", "patch_merger.merging_layer.weight")
        save_checkpoint(tmp_path, values, tensors | dict.fromkeys(beside, np.ones((3, 2), np.float32)))
        assert np.array_equal(refimpl.load(tmp_path, "float32")(self.tokens())[0], model(self.tokens())[0])

    def test_a_foreign_tensor_is_an_error(self, tmp_path: Path) -> None:
        model = refimpl.init(PARAMS, seed=4)
        tensors = model.blueprint.layouts[0].write(model.weights) | {
            "layers.0.attention.wq.weight": np.ones((3, 2), np.float32)
        }
        save_checkpoint(tmp_path, PARAMS, tensors)
        with pytest.raises(CheckpointError, match=r"'layers\.0\.attention\.wq\.weight' is not part of 'mistral_large3'"):
            refimpl.load(tmp_path)


class TestNamesOnDisk:
    def leaves(self, values: dict[str, Any]) -> dict[str, Any]:
        blueprint = refimpl.blueprint(values)
        (layout,) = blueprint.layouts
        return layout.leaves(blueprint.parameters())

    def test_all_of_them(self) -> None:
        leaves = self.leaves(params(n_layers=2))
        attention = ("wq_a", "q_a_norm", "wq_b", "wkv_a_with_mqa", "kv_a_norm", "wkv_b", "wo")
        both = {f"attention.{name}.weight" for name in attention} | {"attention_norm.weight", "ffn_norm.weight"}
        matrices = ("w1", "w2", "w3")
        dense = {f"feed_forward.{name}.weight" for name in matrices}
        sparse = {
            f"{part}.{name}.weight" for part in ("shared_experts", *(f"experts.{e}" for e in range(6))) for name in matrices
        }
        assert set(leaves) == {
            *("tok_embeddings.weight", "norm.weight", "output.weight"),
            *(f"layers.0.{name}" for name in both | dense),
            *(f"layers.1.{name}" for name in both | sparse | {"gate.weight"}),
        }
        assert leaves["layers.1.attention.wkv_b.weight"].shape == (3 * (8 + 7), 9)
        assert leaves["layers.1.experts.5.w2.weight"].shape == (20, 11)

    def test_w1_is_the_gate_and_w3_the_up_projection(self) -> None:
        sources: Any = refimpl.blueprint(PARAMS).layouts[0].sources
        assert sources["layers.0.mlp.gate_proj.weight"].name == "layers.0.feed_forward.w1.weight"
        assert sources["layers.1.mlp.shared.up_proj.weight"].name == "layers.1.shared_experts.w3.weight"
        assert sources["layers.1.mlp.experts.up_proj.weight"].sources[4].name == "layers.1.experts.4.w3.weight"

    def test_a_tied_head_is_the_embedding(self) -> None:
        assert "output.weight" not in self.leaves(params(tied_embeddings=True))

    def test_what_is_stored_in_fp8(self) -> None:
        leaves = self.leaves(params(quantization_config=FP8))
        scaled = {name.removesuffix("_scale") for name in leaves if name.endswith("_scale")}
        assert scaled == {name for name, leaf in leaves.items() if leaf.formats == ("F8_E4M3",)}
        experts = [f"{part}.{name}" for part in ("shared_experts", "experts.3") for name in ("w1", "w2", "w3")]
        quantised = ("attention.wq_b", "attention.wkv_b", "attention.wo", *experts)
        assert {f"layers.1.{name}.weight" for name in quantised} <= scaled
        plain = ("attention.wq_a", "attention.wkv_a_with_mqa", "attention.q_a_norm", "gate", "ffn_norm")
        assert {*(f"layers.1.{name}.weight" for name in plain), "output.weight", "tok_embeddings.weight"} <= set(
            leaves
        ) - scaled
        assert leaves["layers.1.attention.wkv_b.weight_scale"].shape == (6, 2)

    def test_fp8_is_read_as_the_decoded_weights(self, tmp_path: Path) -> None:
        values = params(quantization_config=FP8)
        model = refimpl.init(values, seed=4, dtype="float64")
        layout = model.blueprint.layouts[0]
        tensors = layout.write(model.weights)
        save_checkpoint(tmp_path / "fp8", values, tensors)
        decoded = {name: source.read(tensors.__getitem__, np.dtype(np.float64)) for name, source in layout.sources.items()}
        save_checkpoint(tmp_path / "plain", PARAMS, refimpl.blueprint(PARAMS).layouts[0].write(decoded))
        tokens = np.random.default_rng(5).integers(0, 53, (2, 9))
        encoded, plain = (refimpl.load(tmp_path / name)(tokens)[0] for name in ("fp8", "plain"))
        assert np.array_equal(encoded, plain)
        assert np.abs(encoded - model(tokens)[0]).max() > 1e-3


class TestTheRelease:
    def test_parameters(self) -> None:
        blueprint = refimpl.blueprint(RELEASE)
        assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == (673_421_089_792, 39_946_968_064)

    def test_the_scale_has_no_factor(self) -> None:
        read: Any = refimpl.blueprint(RELEASE).layers[60].mixer
        assert read.scale == pytest.approx(0.0721687836487032, rel=1e-14)
        frequencies = read.rope.frequencies("float64")
        np.testing.assert_allclose(frequencies[[16, 31]], [7.008547e-3, 3.7042262e-6], rtol=1e-7)

    def test_the_cache_of_both_forms(self) -> None:
        blueprint = refimpl.blueprint(RELEASE)
        assert blueprint.cache_bytes(1) == 61 * (512 + 64) * 2
        assert blueprint.expanded().cache_bytes(1) == 61 * 128 * (192 + 128) * 2

    def test_its_tensors(self) -> None:
        blueprint = refimpl.blueprint(RELEASE)
        leaves = blueprint.layouts[0].leaves(blueprint.parameters())
        assert len(leaves) == 45_703
        assert leaves["layers.60.experts.127.w1.weight_scale"].shape == (32, 56)
        assert leaves["layers.0.attention.wq_a.weight"].formats == leaves["output.weight"].formats
