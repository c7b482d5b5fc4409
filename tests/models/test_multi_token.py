"""Modules for multi-token prediction: what the configuration says, their names on disk, and what a checkpoint may hold."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import MoE
from refimpl.checkpoint import CheckpointError, save_checkpoint
from refimpl.numerics import Array
from tests.models.test_glm4_moe import config
from tests.tiny import tokens, without

TOKENS = tokens(2, 7, vocab_size=53)
PREFIX = "model.layers.3."
BESIDE_THE_LAYER = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}
COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}


def test_there_is_one_unless_the_configuration_says_otherwise() -> None:
    counts = [len(refimpl.blueprint(values).multi_token) for values in (config(), config(num_nextn_predict_layers=3))]
    assert counts == [1, 3]
    assert refimpl.blueprint(config(num_nextn_predict_layers=0)).multi_token == ()


def test_a_module_has_experts_where_all_layers_are_dense() -> None:
    blueprint = refimpl.blueprint(config(first_k_dense_replace=3))
    assert not any(isinstance(layer.mlp, MoE) for layer in blueprint.layers)
    (module,) = blueprint.multi_token
    assert isinstance(module.layer.mlp, MoE)
    assert module.layer.mixer == blueprint.layers[0].mixer
    assert {module.enorm, module.hnorm, module.norm} == {blueprint.final_norm}


def test_names_on_disk_are_those_of_the_layers_after_the_last() -> None:
    blueprint = refimpl.blueprint(config(num_nextn_predict_layers=2))
    shapes = blueprint.parameters()
    for layout in blueprint.layouts:
        leaves = layout.leaves(shapes)
        ordinary = {name.removeprefix("model.layers.2.") for name in leaves if name.startswith("model.layers.2.")}
        for index in (3, 4):
            prefix = f"model.layers.{index}."
            assert {name.removeprefix(prefix) for name in leaves if name.startswith(prefix)} == ordinary | BESIDE_THE_LAYER
        assert leaves[f"{PREFIX}eh_proj.weight"].shape == (24, 48)
        assert layout.module_copies[1] == {f"model.layers.4.{copy}": name for copy, name in COPIES.items()}


def test_a_tied_head_is_copied_from_the_embedding() -> None:
    layout = refimpl.blueprint(config(tie_word_embeddings=True)).layouts[0]
    assert set(layout.module_copies[0].values()) == {"model.embed_tokens.weight"}


class TestCheckpoints:
    @staticmethod
    def write(directory: Path, *, drop: Any = (), add: Any = None, **changes: Any) -> refimpl.Model:
        """A checkpoint whose tensors are those of `config(**changes)`, without some and with others."""
        values = config(**changes)
        drawn = refimpl.init(values, seed=1)
        tensors = {name: array for name, array in drawn.blueprint.layouts[0].write(drawn.weights).items() if name not in drop}
        save_checkpoint(directory, values, {**tensors, **(add(tensors) if add else {})})
        return drawn

    @staticmethod
    def names(count: int = 1) -> list[str]:
        """Of the first `count` modules."""
        blueprint = refimpl.blueprint(config(num_nextn_predict_layers=count))
        prefixes = tuple(f"model.layers.{3 + index}." for index in range(count))
        return [name for name in blueprint.layouts[0].leaves(blueprint.parameters()) if name.startswith(prefixes)]

    @staticmethod
    def copies(tensors: dict[str, Array]) -> dict[str, Array]:
        return {f"{PREFIX}{copy}": tensors[name] for copy, name in COPIES.items()}

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("with_copies", [False, True])
    def test_a_module_is_read(self, tmp_path: Path, stream: bool, with_copies: bool) -> None:
        drawn = self.write(tmp_path, add=self.copies if with_copies else None)
        model = refimpl.load(tmp_path, "float32", stream=stream)
        assert np.array_equal(model(TOKENS)[0], drawn(TOKENS)[0])
        hidden = model.hidden(TOKENS)[0]
        found, expected = (each.multi_token(TOKENS[:, 1:], hidden[:, :-1])[0] for each in (model, drawn))
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize(("configured", "stored"), [(1, 0), (2, 0), (3, 1)])
    def test_modules_of_which_nothing_is_stored_are_left_out(self, tmp_path: Path, configured: int, stored: int) -> None:
        absent = set(self.names(configured)) - set(self.names(stored))
        drawn = self.write(tmp_path, drop=absent, num_nextn_predict_layers=configured)
        model = refimpl.load(tmp_path, "float32")
        assert len(model.blueprint.multi_token) == stored
        assert not any(name.startswith(f"multi_token.{stored}.") for name in model.weights)
        assert np.array_equal(model(TOKENS)[0], drawn(TOKENS)[0])
        with pytest.raises(ValueError, match=f"^multi_token: module is {stored} but the model has {stored} modules"):
            model.multi_token(TOKENS, model.hidden(TOKENS)[0], module=stored)
        again = model.blueprint.layouts[0].write(model.weights)
        assert again.keys() == {*refimpl.blueprint(config()).layouts[0].leaves(model.blueprint.parameters())}

    @pytest.mark.parametrize("name", ["enorm.weight", "eh_proj.weight", "self_attn.k_proj.weight", "shared_head.norm.weight"])
    def test_a_part_of_a_module_is_an_error_that_names_what_is_missing(self, tmp_path: Path, name: str) -> None:
        self.write(tmp_path, drop=[PREFIX + name])
        with pytest.raises(CheckpointError, match=rf"tensor 'model\.layers\.3\.{name}' is missing"):
            refimpl.load(tmp_path)

    def test_copies_alone_are_a_part_of_a_module(self, tmp_path: Path) -> None:
        self.write(tmp_path, drop=self.names(), add=self.copies)
        with pytest.raises(CheckpointError, match=r"tensors are \('model\.layers\.3\."):
            refimpl.load(tmp_path)

    def test_a_module_after_one_that_is_missing(self, tmp_path: Path) -> None:
        self.write(tmp_path, drop=self.names(), num_nextn_predict_layers=2)
        with pytest.raises(CheckpointError, match=r"'model\.layers\.4\..* not part of 'glm4_moe'"):
            refimpl.load(tmp_path)

    @pytest.mark.parametrize("modules", [0, 1])
    def test_a_layer_that_the_configuration_leaves_out_is_no_module(self, tmp_path: Path, modules: int) -> None:
        drawn = refimpl.init(config(num_hidden_layers=4, num_nextn_predict_layers=0), seed=1)
        tensors = drawn.blueprint.layouts[0].write(drawn.weights)
        save_checkpoint(tmp_path, config(num_nextn_predict_layers=modules), tensors)
        message = r"'model\.layers\.3\.enorm\.weight'.* missing" if modules else r"'model\.layers\.3\..* not part of"
        with pytest.raises(CheckpointError, match=message):
            refimpl.load(tmp_path)

    def test_a_module_that_the_configuration_leaves_out(self, tmp_path: Path) -> None:
        drawn = refimpl.init(config(), seed=1)
        save_checkpoint(tmp_path, config(num_nextn_predict_layers=0), drawn.blueprint.layouts[0].write(drawn.weights))
        with pytest.raises(CheckpointError, match=r"tensors are \('model\.layers\.3\..* not part of 'glm4_moe'"):
            refimpl.load(tmp_path)

    @pytest.mark.parametrize("copy", COPIES)
    def test_a_copy_that_differs_stops_the_module_and_not_the_model(self, tmp_path: Path, copy: str) -> None:
        def changed(tensors: dict[str, Array]) -> dict[str, Array]:
            other = tensors[COPIES[copy]].copy()
            other[5, 3] += 1
            return {**self.copies(tensors), PREFIX + copy: other}

        drawn = self.write(tmp_path, add=changed)
        model = refimpl.load(tmp_path, "float32")
        assert np.array_equal(model(TOKENS)[0], drawn(TOKENS)[0])
        for _ in range(2):
            with pytest.raises(
                CheckpointError, match=rf"a module shares .*'model\.layers\.3\.{copy}' differs from '{COPIES[copy]}'"
            ):
                model.multi_token(TOKENS, model.hidden(TOKENS)[0])

    def test_a_copy_of_another_shape_is_an_error(self, tmp_path: Path) -> None:
        self.write(tmp_path, add=lambda tensors: {f"{PREFIX}embed_tokens.weight": np.ones((3, 2), np.float32)})
        with pytest.raises(CheckpointError, match=r"'model\.layers\.3\.embed_tokens\.weight' has shape \(3, 2\) but"):
            refimpl.load(tmp_path)


def test_the_key_may_be_absent() -> None:
    assert refimpl.blueprint(without(config(), "num_nextn_predict_layers")).multi_token


def stored_numbers(release: str) -> dict[str, int]:
    """How many numbers a published checkpoint holds, by format: copies, scales and correction biases included."""
    blueprint = refimpl.blueprint(release)
    layout = blueprint.layouts[0]
    leaves = layout.leaves(blueprint.parameters())
    copies = {copy: leaves[original] for module in layout.module_copies for copy, original in module.items()}
    found: Counter[str] = Counter()
    for name, leaf in {**leaves, **copies}.items():
        kept_wide = name.endswith(("e_score_correction_bias", "weight_scale_inv"))
        quantised = leaf.formats == ("F8_E4M3",)
        found["F8_E4M3" if quantised else "F32" if kept_wide else "BF16"] += prod(leaf.shape)
    return dict(found)


@pytest.mark.parametrize(
    ("release", "module", "total"),
    [("zai-org/GLM-4.5", 3_988_069_632, 358_337_791_296), ("zai-org/GLM-4.5-Air", 2_375_059_456, 110_468_824_832)],
)
def test_what_the_hub_stores_of_glm(release: str, module: int, total: int) -> None:
    blueprint = refimpl.blueprint(release)
    assert sum(stored_numbers(release).values()) == total
    assert blueprint.num_parameters(multi_token=True) - blueprint.num_parameters() == module


@pytest.mark.parametrize("release", ["deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1"])
def test_what_the_hub_stores_of_deepseek(release: str) -> None:
    blueprint = refimpl.blueprint(release)
    assert stored_numbers(release) == {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}
    assert blueprint.num_parameters(multi_token=True) - blueprint.num_parameters() == 11_610_067_968
