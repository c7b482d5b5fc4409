"""Where numbers come from: drawn at random, or read strictly from a checkpoint, held or streamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import refimpl
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import CheckpointError, save_checkpoint
from refimpl.numerics import plain
from refimpl.ops import Rounded
from refimpl.storage import Layout
from refimpl.weights import RandomWeights
from tests.tiny import qwen3, smollm3, tokens, without

CONFIG = qwen3(num_hidden_layers=2)
TIED = smollm3(num_hidden_layers=2, no_rope_layers=[1, 0])


def stored(config: dict, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Random tensors under their names on disk."""
    blueprint = refimpl.blueprint(config)
    weights = RandomWeights(blueprint, "float32", seed=3)
    return blueprint.layouts[0].write({name: weights[name].astype(dtype) for name in weights})


def saved(directory: Path, config: dict, tensors: dict[str, np.ndarray]) -> Path:
    save_checkpoint(directory, config, tensors)
    return directory


class TestRandomWeights:
    BLUEPRINT: Blueprint = refimpl.blueprint(CONFIG)

    def test_have_the_names_and_shapes_of_the_blueprint(self) -> None:
        weights = RandomWeights(self.BLUEPRINT, "float32", seed=0)
        assert {name: array.shape for name, array in weights.items()} == self.BLUEPRINT.parameters()
        assert len(weights) == len(self.BLUEPRINT.parameters())

    def test_do_not_depend_on_the_order_of_asking(self) -> None:
        forwards, backwards = (RandomWeights(self.BLUEPRINT, "float32", seed=0) for _ in range(2))
        one = {name: forwards[name] for name in forwards}
        other = {name: backwards[name] for name in reversed(list(backwards))}
        assert all((one[name] == other[name]).all() for name in one)

    def test_of_two_formats_are_the_same_numbers(self) -> None:
        narrow, wide = (RandomWeights(self.BLUEPRINT, dtype, seed=1) for dtype in ("float32", "float64"))
        for name in narrow:
            assert (narrow[name].dtype, wide[name].dtype) == (np.float32, np.float64)
            np.testing.assert_array_equal(narrow[name], wide[name])

    def test_differ_by_seed_and_by_name(self) -> None:
        one, other = (RandomWeights(self.BLUEPRINT, "float32", seed=seed) for seed in (0, 1))
        assert not (one["layers.0.mixer.k_proj.weight"] == other["layers.0.mixer.k_proj.weight"]).any()
        assert not (one["layers.0.mixer.k_proj.weight"] == one["layers.1.mixer.k_proj.weight"]).any()

    def test_keep_activations_at_their_size(self) -> None:
        wide = refimpl.blueprint(qwen3(hidden_size=400, intermediate_size=600, attention_bias=True))
        weights = RandomWeights(wide, "float64", seed=0)
        assert abs(weights["layers.0.mlp.gate_proj.weight"].std() * 400**0.5 - 1) < 0.05
        assert abs(weights["layers.0.mixer_norm.weight"].mean() - 1) < 0.1
        assert abs(weights["layers.0.mixer.o_proj.bias"].mean()) < 0.1

    def test_models_of_one_seed_are_equal(self) -> None:
        one, same, other = (refimpl.init(CONFIG, seed=seed) for seed in (4, 4, 5))
        np.testing.assert_array_equal(one(tokens(1, 3))[0], same(tokens(1, 3))[0])
        assert not np.allclose(one(tokens(1, 3))[0], other(tokens(1, 3))[0])

    @pytest.mark.parametrize("seed", [-1, 1.5, None, "0"])
    def test_a_wrong_seed_is_one_sentence(self, seed) -> None:
        with pytest.raises(ValueError, match=f"seed is {seed!r} but needs"):
            refimpl.init(CONFIG, seed=seed)


class TestLoad:
    @pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_every_stored_format_is_computed_in_the_asked_one(
        self, tmp_path: Path, kind: type, dtype: str, stream: bool
    ) -> None:
        tensors = stored(CONFIG, kind)
        model = refimpl.load(saved(tmp_path, CONFIG, tensors), dtype, stream=stream)
        for name, source in model.blueprint.layouts[0].sources.items():
            assert model.weights[name].dtype == dtype
            np.testing.assert_array_equal(model.weights[name], tensors[source.name].astype(dtype))
        assert list(model.weights) == list(model.blueprint.parameters())
        assert model(tokens(1, 3))[0].dtype == dtype

    def test_float64_is_the_default(self, tmp_path: Path) -> None:
        assert refimpl.load(saved(tmp_path, CONFIG, stored(CONFIG))).dtype == "float64"

    @pytest.mark.parametrize("config", [CONFIG, TIED], ids=["qwen3", "smollm3"])
    def test_a_saved_model_gives_the_same_logits(self, tmp_path: Path, config: dict) -> None:
        model = refimpl.init(config, seed=3, dtype="float32")
        loaded = refimpl.load(str(saved(tmp_path, config, stored(config))), "float32")
        np.testing.assert_array_equal(loaded(tokens(2, 5))[0], model(tokens(2, 5))[0])

    def test_streaming_changes_nothing(self, tmp_path: Path) -> None:
        saved(tmp_path, TIED, stored(TIED, ml_dtypes.bfloat16))
        held, streamed = (refimpl.load(tmp_path, stream=stream) for stream in (False, True))
        whole = tokens(2, 6)
        expected, _ = held(whole)
        np.testing.assert_array_equal(streamed(whole)[0], expected)
        _, cache = streamed(whole[:, :4])
        np.testing.assert_allclose(streamed(whole[:, 4:], cache)[0], expected[:, 4:], rtol=1e-12, atol=1e-13)

    def test_held_weights_are_read_once_and_streamed_ones_each_time(self, tmp_path: Path) -> None:
        saved(tmp_path, CONFIG, stored(CONFIG))
        name = "layers.0.mlp.gate_proj.weight"
        held, streamed = (refimpl.load(tmp_path, stream=stream).weights for stream in (False, True))
        assert held[name] is held[name]
        assert streamed[name] is not streamed[name]

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
    def test_another_format_is_one_sentence(self, tmp_path: Path, dtype: str) -> None:
        saved(tmp_path, CONFIG, stored(CONFIG))
        with pytest.raises(ValueError, match=f"^dtype is '{dtype}' but must be one of float64, float32$"):
            refimpl.load(tmp_path, dtype)

    @pytest.mark.parametrize("path", [None, 3, {}])
    def test_something_that_is_no_path_is_one_sentence(self, path) -> None:
        with pytest.raises(ValueError, match="path"):
            refimpl.load(path)

    def test_a_missing_directory_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="nowhere: no such directory"):
            refimpl.load(tmp_path / "nowhere")


class TestStrict:
    def failing(self, directory: Path, config: dict, tensors: dict[str, np.ndarray]) -> str:
        saved(directory, config, tensors)
        with pytest.raises(CheckpointError) as caught:
            refimpl.load(directory)
        message = str(caught.value)
        assert message.startswith(str(directory))
        assert "\n" not in message
        return message.removeprefix(f"{directory}: ")

    def test_a_missing_tensor_is_named(self, tmp_path: Path) -> None:
        tensors = stored(CONFIG)
        del tensors["model.layers.1.self_attn.k_norm.weight"]
        assert self.failing(tmp_path, CONFIG, tensors) == "tensor 'model.layers.1.self_attn.k_norm.weight' is missing"

    def test_many_missing_tensors_are_counted(self, tmp_path: Path) -> None:
        tensors = {name: array for name, array in stored(CONFIG).items() if "layers.1." not in name}
        message = self.failing(tmp_path, CONFIG, tensors)
        assert message.startswith("11 tensors are ('model.layers.1.")
        assert message.endswith(", ...) missing")

    def test_a_surplus_tensor_is_named(self, tmp_path: Path) -> None:
        tensors = stored(CONFIG) | {"model.layers.0.self_attn.q_proj.bias": np.zeros(48, np.float32)}
        expected = "tensor 'model.layers.0.self_attn.q_proj.bias' is not part of 'qwen3'"
        assert self.failing(tmp_path, CONFIG, tensors) == expected

    def test_a_layer_too_many_is_surplus(self, tmp_path: Path) -> None:
        message = self.failing(tmp_path, CONFIG, stored(qwen3(num_hidden_layers=3)))
        assert message.startswith("11 tensors are ('model.layers.2.")

    @pytest.mark.parametrize("shape", [(20, 16), (16, 21), (320,), (16, 20, 1)])
    def test_a_mis_shaped_tensor_is_named(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        name = "model.layers.0.self_attn.k_proj.weight"
        tensors = stored(CONFIG) | {name: np.zeros(shape, np.float32)}
        expected = f"tensor {name!r} has shape {shape} but the configuration makes it (16, 20)"
        assert self.failing(tmp_path, CONFIG, tensors) == expected

    @pytest.mark.parametrize(("kind", "code"), [(np.int32, "I32"), (np.uint8, "U8"), (ml_dtypes.float8_e4m3fn, "F8_E4M3")])
    def test_a_tensor_of_another_kind_is_named(self, tmp_path: Path, kind: type, code: str) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        tensors = stored(CONFIG)
        tensors[name] = tensors[name].astype(kind)
        expected = f"tensor {name!r} is stored as {code}, but 'qwen3' is read from F64, F32, F16, BF16"
        assert self.failing(tmp_path, CONFIG, tensors) == expected

    def test_an_unknown_key_is_an_error_before_any_tensor(self, tmp_path: Path) -> None:
        saved(tmp_path, {**CONFIG, "zzz": 1}, {})
        with pytest.raises(ValueError, match="config: unknown key 'zzz'"):
            refimpl.load(tmp_path)


class TestTiedHead:
    EMBEDDING = "model.embed_tokens.weight"

    def test_a_tied_head_needs_no_tensor(self, tmp_path: Path) -> None:
        assert "lm_head.weight" not in stored(TIED)
        assert refimpl.load(saved(tmp_path, TIED, stored(TIED))).blueprint.head.tied

    def test_an_equal_second_copy_is_harmless(self, tmp_path: Path) -> None:
        tensors = stored(TIED)
        (plain := tmp_path / "plain").mkdir()
        (double := tmp_path / "double").mkdir()
        saved(plain, TIED, tensors)
        saved(double, TIED, tensors | {"lm_head.weight": tensors[self.EMBEDDING].copy()})
        np.testing.assert_array_equal(refimpl.load(double)(tokens(1, 3))[0], refimpl.load(plain)(tokens(1, 3))[0])

    @pytest.mark.parametrize(
        "change",
        [
            lambda w: w + np.float32(1e-3),
            lambda w: w[:-1],
            lambda w: w.astype(np.float64),
            lambda w: w.reshape(w.T.shape),
            lambda w: w.view(np.int32),
        ],
        ids=["values", "rows", "format", "shape-of-equal-bytes", "format-of-equal-bytes"],
    )
    def test_a_different_second_copy_is_an_error(self, tmp_path: Path, change) -> None:
        tensors = stored(TIED)
        saved(tmp_path, TIED, tensors | {"lm_head.weight": change(tensors[self.EMBEDDING])})
        message = "ties the head to the embedding, but 'lm_head.weight' differs from 'model.embed_tokens.weight'$"
        with pytest.raises(CheckpointError, match=message):
            refimpl.load(tmp_path)

    def test_an_untied_head_is_its_own(self, tmp_path: Path) -> None:
        config, tensors = {**TIED, "tie_word_embeddings": False}, stored(TIED)
        head = 2 * tensors[self.EMBEDDING]
        (tied := tmp_path / "tied").mkdir()
        (own := tmp_path / "own").mkdir()
        expected = refimpl.load(saved(tied, TIED, tensors))(tokens(1, 3))[0]
        found = refimpl.load(saved(own, config, tensors | {"lm_head.weight": head}))(tokens(1, 3))[0]
        np.testing.assert_array_equal(found, 2 * expected)


PEAK = """
import sys
import numpy as np
import refimpl

def peak_megabytes():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

refimpl.init({config!r})(np.ones((1, 2), int))
before = peak_megabytes()
model = refimpl.load(sys.argv[1], "float32", stream=sys.argv[2] == "stream")
logits, cache = model(np.ones((1, 4), int))
model(np.ones((1, 1), int), cache)
print(peak_megabytes() - before)
"""


LAYERS, LAYER_MB, EMBEDDING_MB = 24, 12, 2
LARGE = qwen3(
    vocab_size=1024,
    hidden_size=512,
    intermediate_size=1376,
    num_hidden_layers=LAYERS,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    tie_word_embeddings=True,
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 layers of 12 MB in float32 (288 MB), stored in bfloat16, with an embedding of 2 MB."""
    blueprint = refimpl.blueprint(LARGE)
    arrays = {name: np.full(shape, 0.01, ml_dtypes.bfloat16) for name, shape in blueprint.parameters().items()}
    tensors = blueprint.layouts[0].write(arrays)
    return saved(tmp_path_factory.mktemp("large"), LARGE, tensors)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
class TestMemory:
    def peak(self, checkpoint: Path, how: str) -> float:
        """Megabytes that loading and two calls add to the peak of a process of their own."""
        code = PEAK.format(config=qwen3())
        done = subprocess.run([sys.executable, "-c", code, checkpoint, how], capture_output=True, text=True, check=True)
        return float(done.stdout)

    def test_the_sizes_are_as_said(self) -> None:
        megabytes = 4 * (refimpl.blueprint(LARGE).num_parameters() - 1024 * 512) / 2**20
        assert abs(megabytes / LAYERS - LAYER_MB) < 1

    def test_a_streamed_pass_needs_one_layer_beyond_the_embedding(self, large: Path) -> None:
        assert self.peak(large, "stream") < 1.5 * LAYER_MB + EMBEDDING_MB

    def test_a_held_model_needs_all_layers(self, large: Path) -> None:
        assert self.peak(large, "hold") > 0.9 * LAYERS * LAYER_MB


EXPERTS = {"num_experts": 9, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "norm_topk_prob": True}


class TestAlternativeLayouts:
    CONFIG: dict[str, Any] = {**without(CONFIG, "intermediate_size"), "model_type": "qwen3_moe", **EXPERTS}  # noqa: RUF012
    BLUEPRINT = refimpl.blueprint(CONFIG)
    LAYOUTS = pytest.mark.parametrize("layout", BLUEPRINT.layouts, ids=["one-an-expert", "stacked"])

    def tensors(self, layout: Layout) -> dict[str, np.ndarray]:
        return layout.write(dict(RandomWeights(self.BLUEPRINT, "float32", seed=3)))

    @LAYOUTS
    @pytest.mark.parametrize("stream", [False, True])
    def test_each_gives_the_same_logits(self, tmp_path: Path, layout: Layout, stream: bool) -> None:
        model = refimpl.load(saved(tmp_path / "m", self.CONFIG, self.tensors(layout)), stream=stream)
        expected = refimpl.init(self.CONFIG, seed=3, dtype="float64")(tokens(2, 7))[0]
        np.testing.assert_allclose(model(tokens(2, 7))[0], expected, rtol=1e-12, atol=1e-13)

    @LAYOUTS
    def test_streamed_in_low_precision_equals_held(self, tmp_path: Path, layout: Layout) -> None:
        path = saved(tmp_path / "m", self.CONFIG, self.tensors(layout))
        held, streamed = (refimpl.load(path, "float32", stream=stream) for stream in (False, True))
        rounded = (model.with_ops(Rounded(model.ops, "bfloat16"))(tokens(2, 7))[0] for model in (held, streamed))
        np.testing.assert_array_equal(*map(plain, rounded))

    @pytest.mark.parametrize("kept", [1, 5, 8])
    def test_missing_experts_are_named_as_in_the_layout_that_the_rest_is_of(self, tmp_path: Path, kept: int) -> None:
        tensors = {
            name: array
            for name, array in self.tensors(self.BLUEPRINT.layouts[0]).items()
            if ".experts." not in name or int(name.split(".experts.")[1].split(".")[0]) < kept
        }
        missing = rf"tensors are \('model\.layers\.0\.mlp\.experts\.{kept}\."
        with pytest.raises(CheckpointError, match=rf"{(9 - kept) * 6} {missing}.*missing$"):
            refimpl.load(saved(tmp_path / "m", self.CONFIG, tensors))

    def test_a_missing_stack_is_named_too(self, tmp_path: Path) -> None:
        tensors = self.tensors(self.BLUEPRINT.layouts[1])
        del tensors["model.layers.1.mlp.experts.down_proj"]
        with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.1\.mlp\.experts\.down_proj' is missing$"):
            refimpl.load(saved(tmp_path / "m", self.CONFIG, tensors))

    def test_two_layouts_at_once_are_surplus(self, tmp_path: Path) -> None:
        tensors = {name: array for layout in self.BLUEPRINT.layouts for name, array in self.tensors(layout).items()}
        with pytest.raises(CheckpointError, match=r"not part of 'qwen3_moe'$"):
            refimpl.load(saved(tmp_path / "m", self.CONFIG, tensors))
