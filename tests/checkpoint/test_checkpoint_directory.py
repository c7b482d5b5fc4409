"""Which directories are checkpoints, and what is said of those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refimpl.checkpoint import CheckpointError, open_checkpoint
from tests.checkpoint.handmade import bytes_file, write_index

INDEX = "model.safetensors.index.json"


def assert_refused(directory: Path, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence) as error:
        open_checkpoint(directory)
    assert str(error.value).startswith(str(directory))
    assert "\n" not in str(error.value)


def test_single_file(single: Path) -> None:
    checkpoint = open_checkpoint(str(single))
    assert checkpoint.directory == single
    assert checkpoint.config == {"model_type": "toy"}
    assert list(checkpoint.tensors) == ["a"]
    assert bytes(checkpoint.read("a")) == b"aa"


def test_shards_are_joined_in_the_order_of_the_index(sharded: Path) -> None:
    write_index(sharded, {"c": "two.safetensors", "a": "one.safetensors", "b": "two.safetensors"})
    checkpoint = open_checkpoint(sharded)
    assert {name: info.file.name for name, info in checkpoint.tensors.items()} == {
        "c": "two.safetensors",
        "a": "one.safetensors",
        "b": "two.safetensors",
    }
    assert list(checkpoint.tensors) == ["c", "a", "b"]
    assert [bytes(checkpoint.read(name)) for name in "abc"] == [b"aa", b"bb", b"cc"]


def test_the_table_cannot_be_changed(single: Path) -> None:
    with pytest.raises(TypeError):
        del open_checkpoint(single).tensors["a"]  # type: ignore[attr-defined]


def test_other_safetensors_files_beside_the_listed_ones_are_ignored(sharded: Path) -> None:
    (sharded / "adapter_model.safetensors").write_bytes(b"anything")
    assert set(open_checkpoint(sharded).tensors) == {"a", "b", "c"}


def test_no_such_directory(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "no such directory")


def test_a_file_is_no_directory(single: Path) -> None:
    assert_refused(single / "model.safetensors", "is a file but needs to be a directory")


def test_an_impossible_path_is_one_sentence(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("x" * 5000), "cannot be read|no such directory")


def test_config_is_missing(single: Path) -> None:
    (single / "config.json").unlink()
    assert_refused(single, r"no config\.json in this directory")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"\xff\xfe{\0}\0", "not valid JSON"),
        (b"[1]", "holds a JSON list but needs an object"),
        (b"null", "holds a JSON NoneType but needs an object"),
        (b'{"a": 1, "a": 2}', "key 'a' appears 2 times"),
    ],
)
def test_config_is_malformed(single: Path, text: bytes, sentence: str) -> None:
    (single / "config.json").write_bytes(text)
    assert_refused(single, rf"config\.json: .*{sentence}")


def test_config_may_hold_infinity(single: Path) -> None:
    (single / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert open_checkpoint(single).config == {"time_step_limit": [0.0, np.inf]}


def test_config_is_a_directory(single: Path) -> None:
    (single / "config.json").unlink()
    (single / "config.json").mkdir()
    assert_refused(single, r"no config\.json")


def test_single_file_and_index_together(sharded: Path) -> None:
    (sharded / "model.safetensors").write_bytes(bytes_file({"a": b"aa"}))
    assert_refused(sharded, rf"holds both model\.safetensors and {INDEX}")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("notes.txt", r"in this directory$"),
        ("pytorch_model.bin", "pytorch_model.bin is a pickle, which is never loaded: convert it to safetensors"),
        ("pytorch_model-00001-of-00002.bin", "is a pickle"),
        ("consolidated.00.pth", "is a pickle"),
        ("other.safetensors", "other.safetensors alone is not enough"),
        ("model-00001-of-00002.safetensors", "alone is not enough: .* shards need their index"),
    ],
)
def test_weights_of_another_kind(single: Path, name: str, sentence: str) -> None:
    (single / "model.safetensors").rename(single / name)
    assert_refused(single, f"neither model.safetensors nor .*{sentence}")


@pytest.mark.parametrize(
    "text", ["{}", '{"weight_map": null}', '{"weight_map": ["one.safetensors"]}', '{"weight_map": "one.safetensors"}']
)
def test_index_without_a_weight_map(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    assert_refused(sharded, "needs a weight_map")


def test_index_is_not_json(sharded: Path) -> None:
    (sharded / INDEX).write_text("weights")
    assert_refused(sharded, rf"{INDEX}: the file is not valid JSON")


def test_index_lists_a_tensor_twice(sharded: Path) -> None:
    (sharded / INDEX).write_text('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}')
    assert_refused(sharded, "key 'a' appears 2 times")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/one.safetensors",
        "../one.safetensors",
        "..",
        ".",
        "",
        "shards/one.safetensors",
        "./one.safetensors",
        "one.safetensors/",
        "shards\\one.safetensors",
        "C:one.safetensors",
        "one\0.safetensors",
        "pytorch_model.bin",
        None,
        1,
        ["one.safetensors"],
    ],
)
def test_index_names_no_file_of_its_directory(sharded: Path, name: Any) -> None:
    (sharded / "shards").mkdir()
    for place in (sharded / "shards", sharded.parent):
        (place / "one.safetensors").write_bytes((sharded / "one.safetensors").read_bytes())
    write_index(sharded, {"a": name, "b": "two.safetensors", "c": "two.safetensors"})
    assert_refused(sharded, "puts tensor 'a' into .* but needs the bare name of a safetensors file")


def test_shard_is_missing(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    assert_refused(sharded, rf"shard two\.safetensors is missing, though {INDEX} lists it")


def test_shard_does_not_hold_a_listed_tensor(sharded: Path) -> None:
    write_index(sharded, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors", "d": "one.safetensors"})
    assert_refused(sharded, r"puts tensor 'd' into one\.safetensors, which does not hold it")


def test_listed_in_the_wrong_shard(sharded: Path) -> None:
    write_index(sharded, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    assert_refused(sharded, r"puts tensor 'b' into one\.safetensors, which does not hold it")


def test_shard_holds_an_unlisted_tensor(sharded: Path) -> None:
    write_index(sharded, {"a": "one.safetensors", "b": "two.safetensors"})
    assert_refused(sharded, r"does not list tensor 'c', which two\.safetensors holds")


def test_tensor_in_two_shards(sharded: Path) -> None:
    (sharded / "one.safetensors").write_bytes(bytes_file({"a": b"aa", "b": b"bb"}))
    assert_refused(sharded, r"tensor 'b' is in more than one shard: one\.safetensors and two\.safetensors")


def test_shard_is_truncated(sharded: Path) -> None:
    shard = sharded / "two.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert_refused(sharded, r"two\.safetensors: tensor 'c' ends at byte .* truncated")


def hub_cache(directory: Path) -> Path:
    """Moves the files of a checkpoint into blobs/ and gives the snapshot of links to them, as the hub's client lays it out."""
    blobs, snapshot = directory / "blobs", directory / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(file for file in directory.iterdir() if file.is_file())):
        file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    return snapshot


def test_files_of_a_hub_cache_are_links(sharded: Path) -> None:
    snapshot = hub_cache(sharded)
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.tensors["b"].file == snapshot / "two.safetensors"
    assert bytes(checkpoint.read("b")) == b"bb"


@pytest.mark.parametrize("name", ["config.json", INDEX, "two.safetensors"])
def test_link_to_nowhere(sharded: Path, name: str) -> None:
    snapshot = hub_cache(sharded)
    (snapshot / name).resolve().unlink()
    assert_refused(snapshot, rf"{name}: is a link to \.\./\.\./blobs/0+\d, which is not a file")


def test_total_size_is_not_believed(sharded: Path) -> None:
    text = json.loads((sharded / INDEX).read_text())
    (sharded / INDEX).write_text(json.dumps(text | {"metadata": {"total_size": 10**9}}))
    assert set(open_checkpoint(sharded).tensors) == {"a", "b", "c"}
