"""Writing: other libraries read it, the same input gives the same bytes, and nothing half-written stays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize, safe_open

from refimpl.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from refimpl.checkpoint.dtypes import DTYPES

CONFIG = {"model_type": "toy", "layers": [1, 2], "name": "Grüße"}


def sample(dtype: str) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(1).integers(0, 2 if dtype == "BOOL" else 100, (3, 5))
    return values.astype(DTYPES[dtype])


def listed(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    values = sample(dtype)
    tensors = {"matrix": values, "scalar": values[:1, 0].reshape(()), "empty": values[:0]}
    save_checkpoint(tmp_path, CONFIG, tensors)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == CONFIG
    assert {name: info.dtype for name, info in checkpoint.tensors.items()} == dict.fromkeys(tensors, dtype)
    for name, expected in tensors.items():
        array = checkpoint.read(name)
        assert array.shape == expected.shape
        assert array.tobytes() == expected.tobytes()


def test_the_safetensors_library_reads_every_dtype(tmp_path: Path) -> None:
    tensors = {f"tensor.{dtype}": sample(dtype) for dtype in DTYPES}
    save_checkpoint(tmp_path, CONFIG, tensors)
    file = tmp_path / "model.safetensors"
    read = dict(deserialize(file.read_bytes()))
    assert {name: (view["dtype"], tuple(view["shape"]), bytes(view["data"])) for name, view in read.items()} == {
        f"tensor.{dtype}": (dtype, (3, 5), sample(dtype).tobytes()) for dtype in DTYPES
    }
    with safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    tensors = {name: np.arange(5, dtype=DTYPES[dtype]) for name, dtype in (("b", "U8"), ("a", "F32"), ("c", "F32"))}
    save_checkpoint(tmp_path / "one", CONFIG, tensors)
    save_checkpoint(tmp_path / "two", dict(reversed(CONFIG.items())), dict(reversed(tensors.items())))
    for name in listed(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    names = [f"{'n' * length}.{dtype}" for length, dtype in enumerate(DTYPES)]
    for count in range(8):
        save_checkpoint(tmp_path, {}, {name[count:]: sample(name.split(".")[1]) for name in names})
        infos = open_checkpoint(tmp_path).tensors.values()
        assert all(info.offset % DTYPES[info.dtype].itemsize == 0 for info in infos)
        assert min(info.offset for info in infos) % 8 == 0


def test_order_of_memory_and_of_bytes_does_not_matter(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int32).reshape(4, 6)
    tensors = {
        "big": values.astype(">i4"),
        "columns": np.asfortranarray(values),
        "strided": np.repeat(values, 2, axis=1)[:, ::2],
    }
    save_checkpoint(tmp_path, {}, tensors)
    checkpoint = open_checkpoint(tmp_path)
    for name in tensors:
        np.testing.assert_array_equal(checkpoint.read(name), values)


def test_a_memory_mapped_checkpoint_can_be_saved_over_itself(tmp_path: Path) -> None:
    values = np.arange(10**5)
    save_checkpoint(tmp_path, {}, {"x": values})
    checkpoint = open_checkpoint(tmp_path)
    save_checkpoint(tmp_path, {}, {name: checkpoint.read(name) for name in checkpoint.tensors})
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read("x"), values)


def test_shards_are_filled_in_order(tmp_path: Path) -> None:
    sizes = {"a": 4, "b": 6, "large": 20, "c": 5, "d": 5, "e": 1}
    save_checkpoint(tmp_path, CONFIG, {name: np.full(size, 7, np.uint8) for name, size in sizes.items()}, max_shard_bytes=10)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = "model-0000{}-of-00004.safetensors".format
    assert index == {
        "metadata": {"total_size": 41},
        "weight_map": {"a": shard(1), "b": shard(1), "large": shard(2), "c": shard(3), "d": shard(3), "e": shard(4)},
    }
    assert listed(tmp_path) == ["config.json", *map(shard, (1, 2, 3, 4)), "model.safetensors.index.json"]
    assert {name: info.nbytes for name, info in open_checkpoint(tmp_path).tensors.items()} == sizes


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CONFIG, {"x": np.zeros(10)}, max_shard_bytes=80)
    assert listed(tmp_path) == ["config.json", "model.safetensors"]


def test_a_first_tensor_above_the_limit_leaves_no_empty_shard(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CONFIG, {"large": np.zeros(20), "small": np.zeros(1)}, max_shard_bytes=10)
    files = [info.file.name for info in open_checkpoint(tmp_path).tensors.values()]
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(("first", "second"), [(None, 8), (8, None)])
def test_a_checkpoint_of_the_other_kind_is_not_made_ambiguous(tmp_path: Path, first: int | None, second: int | None) -> None:
    tensors = {"a": np.zeros(1), "b": np.ones(1)}
    save_checkpoint(tmp_path, {"version": 1}, tensors, max_shard_bytes=first)
    before = listed(tmp_path)
    with pytest.raises(CheckpointError, match=r"already holds model\.safetensors.* remove it first"):
        save_checkpoint(tmp_path, {"version": 2}, tensors, max_shard_bytes=second)
    assert listed(tmp_path) == before
    assert open_checkpoint(tmp_path).config == {"version": 1}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"x": [1.0]}, "tensor 'x' is a list but must be a NumPy array"),
        ({"x": np.float32(1)}, "tensor 'x' is a float32 but must be a NumPy array"),
        ({"x": np.zeros(2, np.complex64)}, "tensor 'x' has dtype complex64, which safetensors cannot store; known are float64"),
        ({"x": np.zeros(2, ml_dtypes.float8_e4m3)}, "has dtype float8_e4m3,"),
        ({"x": np.array(["a"])}, "has dtype <U1"),
        ({"x": np.array([None])}, "has dtype object"),
        ({"__metadata__": np.zeros(1)}, "tensor name '__metadata__' cannot be stored"),
        ({3: np.zeros(1)}, "tensor name 3 cannot be stored"),
        ({"\ud800": np.zeros(1)}, "tensor name .* cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path, tensors: Any, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        save_checkpoint(tmp_path / "new", {}, {"good": np.zeros(1)} | tensors)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [({"a": {1}}, "config.json: cannot be written as JSON"), ([1], "configuration is a list but must be a dict")],
)
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, config: Any, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        save_checkpoint(tmp_path / "new", config, {})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1GB"])
def test_max_shard_bytes_must_be_a_positive_integer(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(CheckpointError, match=r"max_shard_bytes is .* but must be a positive integer or None"):
        save_checkpoint(tmp_path / "new", {}, {"x": np.zeros(1)}, max_shard_bytes=limit)
    assert not (tmp_path / "new").exists()


def test_a_target_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made a directory"):
        save_checkpoint(tmp_path / "file", {}, {})


class FailingTensors(Mapping[str, np.ndarray[Any, Any]]):
    """Tensors whose second reading, the one that writes, fails after the first tensor."""

    def __init__(self) -> None:
        self.readings = 0

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        self.readings += 1
        if self.readings > 3:
            raise OSError(28, "No space left on device")
        return np.zeros(4)

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, {"x": np.arange(3)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be written \(No space left on device\)"):
        save_checkpoint(tmp_path, {"new": 1}, FailingTensors())
    assert listed(tmp_path) == ["config.json", "model.safetensors"]
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read("x"), np.arange(3))
