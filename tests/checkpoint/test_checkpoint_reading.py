"""Reading tensors: what an array over a memory map is, and that it goes when the array goes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from refimpl.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from refimpl.checkpoint.dtypes import DTYPES
from refimpl.checkpoint.memory_map import SMALLEST_MAP_BYTES
from tests.checkpoint.handmade import entry, framed

MAPPED = 3 * SMALLEST_MAP_BYTES + 5  # bytes: mapped, and no whole number of pages
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def toy(directory: Path, content: bytes) -> Path:
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(content)
    return directory


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "BOOL"])
@pytest.mark.parametrize("count", [4, SMALLEST_MAP_BYTES + 4])
@pytest.mark.parametrize("misalignment", [0, 1])
def test_bytes_are_the_stored_ones_at_any_offset(tmp_path: Path, dtype: str, count: int, misalignment: int) -> None:
    itemsize = DTYPES[dtype].itemsize
    stored = np.random.default_rng(count).bytes(count * itemsize)
    start = misalignment + 8
    header = {"filler": entry("U8", [start], 0, start), "x": entry(dtype, [2, count // 2], start, start + len(stored))}
    padded = framed(header)[8:]
    padded += b" " * (-len(padded) % 8)
    array = open_checkpoint(toy(tmp_path, framed(padded, bytes(start) + stored))).read("x")
    assert array.dtype == DTYPES[dtype]
    assert array.shape == (2, count // 2)
    assert array.tobytes() == stored
    if count > SMALLEST_MAP_BYTES:
        assert array.flags.aligned == (misalignment == 0 or itemsize == 1)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_misaligned_numbers_convert_like_aligned_ones(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(SMALLEST_MAP_BYTES).astype(DTYPES[dtype])
    header = {"filler": entry("U8", [1], 0, 1), "x": entry(dtype, [len(values)], 1, 1 + values.nbytes)}
    padded = framed(header)[8:]
    padded += b" " * (-len(padded) % 8)
    array = open_checkpoint(toy(tmp_path, framed(padded, b"\0" + values.tobytes()))).read("x")
    assert not array.flags.aligned
    np.testing.assert_array_equal(array.astype(np.float64), values.astype(np.float64))
    np.testing.assert_array_equal(array + array, values + values)


@pytest.mark.parametrize("count", [8, MAPPED])
def test_arrays_cannot_be_written(tmp_path: Path, count: int) -> None:
    save_checkpoint(tmp_path, {}, {"x": np.zeros(count, np.uint8)})
    array = open_checkpoint(tmp_path).read("x")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_a_view_keeps_the_map(tmp_path: Path) -> None:
    values = np.arange(MAPPED, dtype=np.int64)
    save_checkpoint(tmp_path, {}, {"x": values})
    checkpoint = open_checkpoint(tmp_path)
    view = checkpoint.read("x")[1:].reshape(-1, 4).T
    del checkpoint
    np.testing.assert_array_equal(view, values[1:].reshape(-1, 4).T)


def test_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, {"model.layers.0.mlp.up_proj.weight": np.zeros(1)})
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor 'model.layers.0.mlp.up.weight'; did you mean '.*up_proj.weight'\?"):
        checkpoint.read("model.layers.0.mlp.up.weight")
    with pytest.raises(CheckpointError, match=r"no tensor 'xyz'$"):
        checkpoint.read("xyz")


@pytest.mark.parametrize("count", [8, MAPPED])
def test_file_that_changed_since_it_was_opened(tmp_path: Path, count: int) -> None:
    save_checkpoint(tmp_path, {}, {"x": np.zeros(count, np.uint8)})
    checkpoint = open_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"has shrunk to \d+ bytes since it was opened"):
        checkpoint.read("x")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"tensor 'x' cannot be read \(No such file or directory\)"):
        checkpoint.read("x")


def test_threads_read_the_same(tmp_path: Path) -> None:
    tensors = {f"t{number}": np.full(MAPPED if number % 2 else 7, number, np.int16) for number in range(16)}
    save_checkpoint(tmp_path, {}, tensors, max_shard_bytes=10**6)
    checkpoint = open_checkpoint(tmp_path)
    names = list(tensors) * 40
    with ThreadPoolExecutor(8) as pool:
        equal = pool.map(lambda name: np.array_equal(checkpoint.read(name), tensors[name]), names)
        assert all(equal)


def run_in_new_process(script: str, directory: Path) -> None:
    result = subprocess.run([sys.executable, "-c", script, str(directory)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@on_linux
def test_a_pass_over_the_tensors_needs_the_memory_of_one(tmp_path: Path) -> None:
    """Resident file pages and address space, with another tensor of the same file held all the time."""
    save_checkpoint(tmp_path, {}, {f"t{number}": np.full(2**20, number, np.uint8) for number in range(64)})
    run_in_new_process(
        """
import sys
from refimpl.checkpoint import open_checkpoint

def mebibytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024

checkpoint = open_checkpoint(sys.argv[1])
held = checkpoint.read("t7")
assert held.sum() == 7 * 2**20
before = {key: mebibytes(key) for key in ("RssFile", "VmSize")}
for round in range(2):
    for number in range(64):
        array = checkpoint.read(f"t{number}")
        assert array.sum() == number * 2**20
        for key in before:
            grown = mebibytes(key) - before[key]
            assert grown < 6, f"{key} grew by {grown} MiB at tensor {number}"
assert mebibytes("RssFile") - before["RssFile"] > 0.9, "the array in hand must be a map"
del array
for key in before:
    assert mebibytes(key) - before[key] < 0.9, f"{key} keeps {mebibytes(key) - before[key]} MiB"
""",
        tmp_path,
    )


@on_linux
def test_held_arrays_take_no_file_descriptors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, {f"t{number}": np.full(MAPPED, number, np.uint8) for number in range(100)})
    run_in_new_process(
        """
import resource, sys
from refimpl.checkpoint import open_checkpoint

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
checkpoint = open_checkpoint(sys.argv[1])
arrays = {name: checkpoint.read(name) for name in checkpoint.tensors}
assert all(array[-1] == int(name[1:]) for name, array in arrays.items())
""",
        tmp_path,
    )


@on_linux
def test_arrays_can_be_used_while_the_process_ends(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, {"x": np.ones(MAPPED, np.uint8)})
    run_in_new_process(
        """
import atexit, sys
from refimpl.checkpoint import open_checkpoint

array = None
atexit.register(lambda: array.sum())
array = open_checkpoint(sys.argv[1]).read("x")
""",
        tmp_path,
    )


@on_linux
def test_a_map_that_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, {"x": np.ones(2**26, np.uint8)})
    run_in_new_process(
        """
import resource, sys
from refimpl.checkpoint import CheckpointError, open_checkpoint

checkpoint = open_checkpoint(sys.argv[1])
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize:"))
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
try:
    checkpoint.read("x")
except CheckpointError as error:
    assert "tensor 'x' cannot be read (Cannot allocate memory)" in str(error), error
else:
    raise AssertionError("the map was made")
""",
        tmp_path,
    )
