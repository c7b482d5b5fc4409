"""The tensor-parallel layout: the same name in the files of every rank, read as one name a slice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from refimpl.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from refimpl.checkpoint.memory_map import SMALLEST_MAP_BYTES
from tests.checkpoint.handmade import bytes_file, entry, framed, write_index

COMMON_FILE = "pytorch_model-00000-TP-common.safetensors"
CONFIG = {"model_type": "toy"}


def slice_file(rank: int, *, group: int = 1) -> str:
    return f"pytorch_model-{group:05d}-TP-{rank:03d}.safetensors"


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    (directory / "config.json").write_text("{}")
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A common tensor "norm"; "w1" and "w2", in files of their own, split over three ranks."""
    files = {COMMON_FILE: bytes_file({"norm": b"nn"})}
    for rank in range(3):
        files[slice_file(rank, group=1)] = bytes_file({"w1": bytes([10 + rank] * 2)})
        files[slice_file(rank, group=2)] = bytes_file({"w2": bytes([20 + rank] * (rank + 1))})
    return write(tmp_path, files)


def assert_refused(directory: Path, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence) as error:
        open_checkpoint(directory)
    assert str(error.value).startswith(str(directory))
    assert "\n" not in str(error.value)


def sample() -> dict[str, np.ndarray[Any, Any]]:
    """Two common tensors, and two of different dtypes split over four ranks."""
    generator = np.random.default_rng(3)
    tensors = {"embed": generator.standard_normal((7, 5)), "norm": np.arange(5, dtype=np.float32)}
    for rank in range(4):
        tensors[f"experts.0.w1@TP-{rank:03d}"] = generator.standard_normal((3, 5)).astype(ml_dtypes.bfloat16)
        tensors[f"experts.0.w2@TP-{rank:03d}"] = generator.standard_normal((5, 3)).astype(np.float16)
    return tensors


def listed(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_every_slice_has_a_name_of_its_own(split: Path) -> None:
    checkpoint = open_checkpoint(split)
    names = ["norm", *(f"{name}@TP-{rank:03d}" for name in ("w1", "w2") for rank in range(3))]
    assert list(checkpoint.tensors) == names
    assert [info.name for info in checkpoint.tensors.values()] == names
    assert bytes(checkpoint.read("norm")) == b"nn"
    for rank in range(3):
        assert checkpoint.tensors[f"w1@TP-{rank:03d}"].file == split / slice_file(rank)
        assert bytes(checkpoint.read(f"w1@TP-{rank:03d}")) == bytes([10 + rank] * 2)
        assert bytes(checkpoint.read(f"w2@TP-{rank:03d}")) == bytes([20 + rank] * (rank + 1))
    with pytest.raises(CheckpointError, match="no tensor 'w1'"):
        checkpoint.read("w1")


def test_slices_without_common_files_and_one_rank_alone(tmp_path: Path) -> None:
    write(tmp_path, {slice_file(0): bytes_file({"w": b"ww"})})
    assert list(open_checkpoint(tmp_path).tensors) == ["w@TP-000"]


def test_the_prefix_of_the_file_names_does_not_matter(split: Path) -> None:
    before = open_checkpoint(split).tensors
    for file in split.glob("pytorch_model-*"):
        file.rename(split / file.name.removeprefix("pytorch_"))
    assert list(open_checkpoint(split).tensors) == list(before)


def test_files_of_other_names_are_ignored(split: Path) -> None:
    before = list(open_checkpoint(split).tensors)
    for name in ("adapter_model.safetensors", "pytorch_model-00001-TP-03.safetensors", "x-TP-003.safetensors.tmp"):
        (split / name).write_bytes(b"anything")
    (split / slice_file(3)).mkdir()
    assert list(open_checkpoint(split).tensors) == before


def test_files_may_be_links_but_not_to_nowhere(split: Path) -> None:
    (split / slice_file(1)).rename(split / "blob")
    (split / slice_file(1)).symlink_to("blob")
    assert bytes(open_checkpoint(split).read("w1@TP-001")) == bytes([11, 11])
    (split / "blob").unlink()
    assert_refused(split, "TP-001.safetensors: is a link to blob, which is not a file")


def test_a_slice_is_a_read_only_map_and_shrinks_with_a_sentence(tmp_path: Path) -> None:
    size = 3 * SMALLEST_MAP_BYTES + 5
    arrays = {f"w@TP-{rank:03d}": np.full(size, rank, np.uint8) for rank in range(2)}
    save_checkpoint(tmp_path, CONFIG, arrays)
    checkpoint = open_checkpoint(tmp_path)
    array = checkpoint.read("w@TP-001")
    np.testing.assert_array_equal(array, arrays["w@TP-001"])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    file = tmp_path / slice_file(1, group=0)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"TP-001.safetensors: has shrunk to"):
        checkpoint.read("w@TP-001")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"TP-001.safetensors: tensor 'w@TP-001' cannot be read"):
        checkpoint.read("w@TP-001")


@pytest.mark.parametrize(("gone", "sentence"), [(0, "rank 002 but needs those of rank 000"), (1, "those of rank 001 as well")])
def test_a_rank_is_missing(split: Path, gone: int, sentence: str) -> None:
    for group in (1, 2):
        (split / slice_file(gone, group=group)).unlink()
    assert_refused(split, sentence)


def test_only_common_files(split: Path) -> None:
    for file in split.glob("*-TP-0*"):
        file.unlink()
    assert_refused(split, "has common files but needs the files of rank 000 as well")


@pytest.mark.parametrize(
    ("rank", "sentence"), [(0, "rank 000 lacks .* 'w2', which rank 001 has"), (2, "rank 002 lacks .* 'w2'")]
)
def test_a_rank_lacks_a_tensor(split: Path, rank: int, sentence: str) -> None:
    (split / slice_file(rank, group=2)).unlink()
    assert_refused(split, sentence)


def test_slices_differ_in_dtype(split: Path) -> None:
    (split / slice_file(2)).write_bytes(framed({"w1": entry("I8", [2], 0, 2)}, b"ab"))
    assert_refused(split, "tensor 'w1' is U8 on rank 000 but I8 on rank 002")


def test_a_tensor_is_in_two_files_of_a_rank(split: Path) -> None:
    (split / slice_file(1, group=2)).write_bytes(bytes_file({"w1": b"aa", "w2": b"bb"}))
    assert_refused(split, f"tensor 'w1' is in more than one file: {slice_file(1)} and {slice_file(1, group=2)}")


def test_a_tensor_is_in_two_common_files(split: Path) -> None:
    (split / "pytorch_model-00003-TP-common.safetensors").write_bytes(bytes_file({"norm": b"nn"}))
    assert_refused(split, f"tensor 'norm' is in more than one file: {COMMON_FILE} and pytorch_model-00003-TP-common")


def test_a_tensor_is_common_and_split(split: Path) -> None:
    (split / COMMON_FILE).write_bytes(bytes_file({"norm": b"nn", "w2": b"ww"}))
    assert_refused(split, "tensor 'w2' is both in a common file and in the files of the ranks")


def test_a_common_tensor_is_called_like_a_slice(split: Path) -> None:
    (split / COMMON_FILE).write_bytes(bytes_file({"w1@TP-000": b"nn"}))
    assert_refused(split, "tensor 'w1@TP-000' in a file would be mistaken for the slice of a rank")


def test_beside_a_single_file(split: Path) -> None:
    (split / "model.safetensors").write_bytes(bytes_file({"a": b"aa"}))
    assert_refused(split, f"holds both model.safetensors and {COMMON_FILE}; remove the one that does not belong")


def test_beside_an_index(split: Path) -> None:
    write_index(split, {"norm": COMMON_FILE})
    assert_refused(split, f"holds both model.safetensors.index.json and {COMMON_FILE}")


def test_a_file_is_truncated(split: Path) -> None:
    file = split / slice_file(2)
    file.write_bytes(file.read_bytes()[:-1])
    assert_refused(split, "TP-002.safetensors: tensor 'w1' ends at byte .* truncated")


def test_round_trip(tmp_path: Path) -> None:
    tensors = sample()
    save_checkpoint(tmp_path, CONFIG, tensors)
    assert listed(tmp_path) == ["config.json", COMMON_FILE, *(slice_file(rank) for rank in range(4))]
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == CONFIG
    assert set(checkpoint.tensors) == set(tensors)
    for name, expected in tensors.items():
        assert checkpoint.read(name).dtype == expected.dtype
        np.testing.assert_array_equal(checkpoint.read(name), expected)


def test_files_hold_the_bare_names(tmp_path: Path) -> None:
    tensors = {name: array for name, array in sample().items() if "w1" not in name}
    save_checkpoint(tmp_path, CONFIG, tensors)
    assert set(load_file(tmp_path / COMMON_FILE)) == {"embed", "norm"}
    for rank in range(4):
        read = load_file(tmp_path / slice_file(rank))
        assert set(read) == {"experts.0.w2"}
        np.testing.assert_array_equal(read["experts.0.w2"], tensors[f"experts.0.w2@TP-{rank:03d}"])


def test_each_part_is_split_into_files(tmp_path: Path) -> None:
    tensors = sample()
    save_checkpoint(tmp_path, CONFIG, tensors, max_shard_bytes=30)
    common = [f"pytorch_model-0000{group}-TP-common.safetensors" for group in range(2)]
    ranks = [slice_file(rank, group=group) for group in (2, 3) for rank in range(4)]
    assert listed(tmp_path) == ["config.json", *common, *ranks]
    checkpoint = open_checkpoint(tmp_path)
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {name: a.shape for name, a in tensors.items()}


def test_it_can_be_saved_over_itself(tmp_path: Path) -> None:
    tensors = sample()
    save_checkpoint(tmp_path, CONFIG, tensors)
    checkpoint = open_checkpoint(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    save_checkpoint(tmp_path, CONFIG, {name: checkpoint.read(name) for name in checkpoint.tensors})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"experts.0.w1@TP-001": None, "experts.0.w2@TP-001": None}, "has files of rank 003 but needs those of rank 001"),
        ({"experts.0.w1@TP-002": None}, "rank 002 lacks a slice of tensor 'experts.0.w1', which rank 000 has"),
        ({"experts.0.w1@TP-002": np.zeros((3, 5))}, "tensor 'experts.0.w1' is BF16 on rank 000 but F64 on rank 002"),
        ({"experts.0.w1": np.zeros(1)}, "tensor 'experts.0.w1' is both in a common file and"),
        ({f"x@TP-001@TP-{rank:03d}": np.zeros(1) for rank in range(4)}, "tensor 'x@TP-001' in a file would be mistaken"),
        (
            {f"__metadata__@TP-{rank:03d}": np.zeros(1) for rank in range(4)},
            "tensor name '__metadata__@TP-000' cannot be stored",
        ),
    ],
)
def test_what_could_not_be_opened_is_not_written(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    tensors = {name: array for name, array in {**sample(), **change}.items() if array is not None}
    with pytest.raises(CheckpointError, match=sentence):
        save_checkpoint(tmp_path / "new", CONFIG, tensors)
    assert not (tmp_path / "new").exists()


WHOLE = {"a": np.zeros(1), "b": np.ones(1)}
TWO_RANKS = {f"w@TP-{rank:03d}": np.zeros(1) for rank in range(2)}
ONE_RANK = {"w@TP-000": np.zeros(1)}


@pytest.mark.parametrize(
    ("first", "second", "limit", "left"),
    [
        (TWO_RANKS, WHOLE, None, slice_file(0, group=0)),
        (TWO_RANKS, WHOLE, 8, slice_file(0, group=0)),
        (TWO_RANKS, ONE_RANK, None, slice_file(1, group=0)),
        (WHOLE, TWO_RANKS, None, "model.safetensors"),
    ],
)
def test_files_that_would_stay_behind_are_not_mixed_in(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], limit: int | None, left: str
) -> None:
    save_checkpoint(tmp_path, {"version": 1}, first)
    before = listed(tmp_path)
    with pytest.raises(CheckpointError, match=f"already holds {left}, which would contradict the new files"):
        save_checkpoint(tmp_path, {"version": 2}, second, max_shard_bytes=limit)
    assert listed(tmp_path) == before
    assert open_checkpoint(tmp_path).config == {"version": 1}


def test_an_index_is_not_left_beside_slices(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CONFIG, WHOLE, max_shard_bytes=8)
    with pytest.raises(CheckpointError, match=r"already holds model\.safetensors\.index\.json"):
        save_checkpoint(tmp_path, CONFIG, TWO_RANKS)


def test_shards_are_still_saved_over_shards(tmp_path: Path) -> None:
    for version in range(2):
        save_checkpoint(tmp_path, {"version": version}, WHOLE, max_shard_bytes=8)
    assert open_checkpoint(tmp_path).config == {"version": 1}


def test_names_that_only_resemble_slices_are_whole_tensors(tmp_path: Path) -> None:
    tensors = {name: np.zeros(1) for name in ("w@TP-00", "w@TP-0000", "@TP-000", "w@TP-000.weight")}
    save_checkpoint(tmp_path, CONFIG, tensors)
    assert listed(tmp_path) == ["config.json", "model.safetensors"]
    assert set(open_checkpoint(tmp_path).tensors) == set(tensors)
