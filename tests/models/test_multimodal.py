"""The language model inside a multimodal checkpoint: names, what is ignored and what is not, who ties the head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import refimpl
from refimpl.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from refimpl.lint import lint
from refimpl.model import numpy_model

TEXT = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 34,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
OTHERS = ("vision_tower.encoder.layers.0.mlp.fc1.weight", "multi_modal_projector.linear_1.weight")


def config(**changes: object) -> dict:
    return {"model_type": "mistral3", "text_config": TEXT, "vision_config": {"anything": 1}, "image_token_index": 3, **changes}


def save(directory: Path, *, naming: int, prefix: str, **extra: np.ndarray) -> refimpl.Model:
    """The checkpoint in a naming, beside tensors of other modalities."""
    model = refimpl.init(config(), seed=3, dtype="float32")
    tensors = model.blueprint.layouts[naming].write(model.weights)
    tensors |= {prefix + name: np.ones((2, 3), np.float32) for name in OTHERS}
    save_checkpoint(directory, config(), tensors | extra)
    return model


@pytest.mark.parametrize(
    ("naming", "prefix", "embedding", "head"),
    [
        (0, "", "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
        (1, "model.", "model.language_model.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_both_namings_are_read(tmp_path: Path, naming: int, prefix: str, embedding: str, head: str) -> None:
    model = save(tmp_path, naming=naming, prefix=prefix)
    names = model.blueprint.layouts[naming].leaves(model.blueprint.parameters()).keys()
    assert {embedding, head, embedding.replace("embed_tokens", "layers.1.self_attn.q_proj")} <= names
    tokens = np.array([[1, 2, 3, 4]])
    assert np.array_equal(refimpl.load(tmp_path, dtype="float32")(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("name", ["language_model.model.layers.0.self_attn.sinks", "audio_tower.weight"])
def test_a_tensor_that_is_neither_is_an_error(tmp_path: Path, name: str) -> None:
    save(tmp_path, naming=0, prefix="", **{name: np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match=f"tensor '{name}' is not part of 'mistral3'"):
        refimpl.load(tmp_path)(np.array([[1]]))


def test_it_is_the_language_model_under_the_outer_name() -> None:
    outer, inner = refimpl.blueprint(config()), refimpl.blueprint({"model_type": "mistral", **TEXT})
    assert (outer.embedding, outer.layers, outer.final_norm) == (inner.embedding, inner.layers, inner.final_norm)
    assert (outer.architecture, outer.config) == ("mistral3", config())


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [
        ({}, {}, False),
        ({"tie_word_embeddings": True}, {}, False),
        ({}, {"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}, False),
    ],
)
def test_the_outer_key_can_only_untie(outer: dict, inner: dict, tied: bool) -> None:
    blueprint = refimpl.blueprint(config(text_config={**TEXT, **inner}, **outer))
    assert blueprint.head.tied is tied
    heads = {f"{name}lm_head.weight" for name in ("language_model.", "")}
    names = {name for layout in blueprint.layouts for name in layout.leaves(blueprint.parameters())}
    assert names & heads == (set() if tied else heads)


@pytest.mark.parametrize("naming", [0, 1])
def test_without_a_head_on_disk_it_is_the_embedding_unless_the_outer_key_unties(tmp_path: Path, naming: int) -> None:
    save(tmp_path, naming=naming, prefix=("", "model.")[naming])
    checkpoint = open_checkpoint(tmp_path)
    tensors = {name: checkpoint.read(name).copy() for name in checkpoint.tensors if not name.endswith("lm_head.weight")}
    assert len(tensors) == len(checkpoint.tensors) - 1
    save_checkpoint(tmp_path, config(), tensors)
    model, tokens = refimpl.load(tmp_path), np.array([[1, 2, 3, 4]])
    assert np.array_equal(model.weights["head.weight"], model.weights["embedding.weight"])
    tied = refimpl.blueprint(config(text_config={**TEXT, "tie_word_embeddings": True}))
    assert np.array_equal(model(tokens)[0], numpy_model(tied, model.weights, model.dtype)(tokens)[0])
    save_checkpoint(tmp_path, config(tie_word_embeddings=False), tensors)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight' is missing"):
        refimpl.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config is None but needs an object"),
        ({"text_config": {**TEXT, "sliding_windows": 3}}, "unknown key 'sliding_windows'"),
        ({"audio_config": {}}, "unknown key 'audio_config'"),
        (
            {"text_config": {**TEXT, "model_type": "llama"}},
            "text_config.model_type is 'llama' but 'mistral3' supports 'mistral'",
        ),
    ],
)
def test_what_is_unknown_is_one_sentence(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}"):
        refimpl.blueprint(config(**changes))


def test_lint_looks_inside() -> None:
    found = {(finding.kind, finding.key) for finding in lint(config())}
    expected = {("used", "text_config.hidden_size"), ("default", "text_config.sliding_window"), ("ignored", "vision_config")}
    assert expected <= found
    assert not any(kind == "error" for kind, _ in found)
