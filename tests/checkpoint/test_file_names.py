"""Checkpoints in Mistral's own format: params.json beside consolidated.safetensors, or its shards and their index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refimpl.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from refimpl.checkpoint.file_names import HUGGING_FACE, MISTRAL, file_names

PARAMS = {"dim": 4, "n_layers": 1}
TENSORS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float16)}


def files(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (PARAMS, MISTRAL),
        ({**PARAMS, "model_type": "llama"}, HUGGING_FACE),
        ({"model_type": "llama", "hidden_size": 4}, HUGGING_FACE),
        ({"hidden_size": 4}, HUGGING_FACE),
        ({}, HUGGING_FACE),
    ],
)
def test_the_keys_of_a_configuration_say_how_its_files_are_called(config: dict, names: object) -> None:
    assert file_names(config) == names


def test_one_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PARAMS, TENSORS)
    assert files(tmp_path) == {"params.json", "consolidated.safetensors"}
    opened = open_checkpoint(tmp_path)
    assert opened.config == PARAMS
    assert {name: opened.read(name).tolist() for name in opened.tensors} == {name: a.tolist() for name, a in TENSORS.items()}


def test_shards(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PARAMS, TENSORS, max_shard_bytes=24)
    shards = {f"consolidated-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert files(tmp_path) == {"params.json", "consolidated.safetensors.index.json", *shards}
    assert set(open_checkpoint(tmp_path).tensors) == {"a", "b"}


def test_the_format_of_hugging_face_comes_first(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PARAMS, TENSORS)
    save_checkpoint(tmp_path, {"model_type": "toy"}, {"c": TENSORS["a"]})
    opened = open_checkpoint(tmp_path)
    assert (opened.config, set(opened.tensors)) == ({"model_type": "toy"}, {"c"})


def test_nothing_is_written_where_it_would_not_be_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"model_type": "toy"}, TENSORS)
    with pytest.raises(CheckpointError, match=r"already holds config\.json, which would contradict the new files"):
        save_checkpoint(tmp_path, PARAMS, TENSORS)
    assert files(tmp_path) == {"config.json", "model.safetensors"}


def test_one_file_beside_shards_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PARAMS, TENSORS, max_shard_bytes=24)
    (tmp_path / "consolidated.safetensors").write_bytes((tmp_path / "consolidated-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"holds both consolidated\.safetensors and consolidated\.safetensors\.index\.json"
    ):
        open_checkpoint(tmp_path)


def test_shards_need_their_index(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PARAMS, TENSORS, max_shard_bytes=24)
    (tmp_path / "consolidated.safetensors.index.json").unlink()
    sentence = r"neither consolidated\.safetensors nor .*index\.json .*a single file is called consolidated\.safetensors"
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(tmp_path)


def test_tensors_under_the_other_names_are_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"model_type": "toy"}, TENSORS)
    (tmp_path / "config.json").rename(tmp_path / "params.json")
    with pytest.raises(CheckpointError, match=r"neither consolidated\.safetensors nor"):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named_with_its_index(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, PARAMS, TENSORS, max_shard_bytes=24)
    index = tmp_path / "consolidated.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(
        CheckpointError, match=r"shard gone\.safetensors is missing, though consolidated\.safetensors\.index\.json"
    ):
        open_checkpoint(tmp_path)
