"""Weights in place: the graph points into the checkpoint's own bytes, and says when it cannot."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import refimpl
from export import ExportError, export_onnx
from refimpl.checkpoint import open_checkpoint
from tests.export.exported_models import RUNTIMES, assert_close, open_session, write_checkpoint
from tests.tiny import qwen3, smollm3, tokens


def initialisers(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}


def digests(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.glob("*.safetensors")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_initialisers_are_the_byte_ranges_of_the_tensors(tmp_path: Path, dtype: str) -> None:
    write_checkpoint(tmp_path, qwen3(), dtype, max_shard_bytes=6000)
    before = digests(tmp_path)
    result = export_onnx(tmp_path, tmp_path / "model.onnx")
    checkpoint, found = open_checkpoint(tmp_path), initialisers(result.path)
    assert set(checkpoint.tensors) <= set(found)
    for name, info in checkpoint.tensors.items():
        entries = {entry.key: entry.value for entry in found[name].external_data}
        assert entries == {"location": info.file.name, "offset": str(info.offset), "length": str(info.nbytes)}
        assert tuple(found[name].dims) == info.shape
    assert digests(tmp_path) == before
    assert result.weights == "in-place"


def test_nothing_is_duplicated(tmp_path: Path) -> None:
    config = smollm3(vocab_size=4000, hidden_size=128, intermediate_size=512)
    write_checkpoint(tmp_path, config)
    before = set(tmp_path.iterdir())
    result = export_onnx(tmp_path, tmp_path / "model.onnx")
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert set(tmp_path.iterdir()) - before == {result.path}
    assert result.bytes_written == result.path.stat().st_size < stored / 50


def test_float32_is_used_as_it_is_and_narrow_formats_are_cast_once(tmp_path: Path) -> None:
    for dtype, casts in (("float32", 0), ("bfloat16", 1)):
        directory = tmp_path / dtype
        write_checkpoint(directory, smollm3(tie_word_embeddings=True), dtype)
        export_onnx(directory, directory / "model.onnx")
        graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
        stored = set(open_checkpoint(directory).tensors)
        cast = [node.input[0] for node in graph.node if node.op_type == "Cast"]
        assert sorted(cast) == sorted(stored) * casts


def test_a_tied_table_is_one_initialiser_read_twice(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, smollm3(tie_word_embeddings=True))
    export_onnx(tmp_path, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    readers = [node.op_type for node in graph.node if "model.embed_tokens.weight" in node.input]
    assert readers == ["embedding", "lm_head"]
    assert "lm_head.weight" not in initialisers(tmp_path / "model.onnx")


def test_a_table_in_a_narrow_format_is_cast_after_its_rows_are_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, smollm3(tie_word_embeddings=False), "bfloat16")
    export_onnx(tmp_path, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    assert [node.op_type for node in graph.node if "model.embed_tokens.weight" in node.input] == ["embedding"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_offsets_that_are_not_aligned(tmp_path: Path, dtype: str, runtime: str) -> None:
    expected, _ = write_checkpoint(tmp_path, qwen3(), dtype)(tokens(1, 6))
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    file.unlink()
    file.write_bytes((length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :])
    assert all(info.offset % 4 for info in open_checkpoint(tmp_path).tensors.values())
    export_onnx(tmp_path, tmp_path / "model.onnx")
    assert_close(open_session(tmp_path / "model.onnx", runtime)(tokens(1, 6))[0], expected)


def test_the_graph_reads_the_checkpoint_when_it_is_loaded(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, qwen3(), seed=0)
    export_onnx(tmp_path, tmp_path / "model.onnx")
    changed = write_checkpoint(tmp_path, qwen3(), seed=1)
    assert_close(open_session(tmp_path / "model.onnx")(tokens(1, 6))[0], changed(tokens(1, 6))[0])


def test_another_directory_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", qwen3())
    (tmp_path / "graphs").mkdir()
    with pytest.raises(ExportError) as error:
        export_onnx(tmp_path / "model", tmp_path / "graphs" / "out.onnx")
    assert str(tmp_path / "model") in str(error.value)
    assert str(tmp_path / "graphs") in str(error.value)
    assert 'weights="copy"' in str(error.value)
    assert list((tmp_path / "graphs").iterdir()) == []


def test_a_directory_may_be_reached_through_a_link(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", qwen3())
    (tmp_path / "link").symlink_to(tmp_path / "model", target_is_directory=True)
    export_onnx(tmp_path / "link", tmp_path / "model" / "out.onnx", verify=True)


@pytest.mark.parametrize(("link", "kind"), [(os.symlink, "symbolic link"), (os.link, "hard link")])
def test_linked_shards_are_refused_and_can_be_copied(tmp_path: Path, link: object, kind: str) -> None:
    write_checkpoint(tmp_path / "blobs", qwen3())
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        link(file, tmp_path / "snapshot" / file.name)  # type: ignore[operator]
    with pytest.raises(ExportError, match=f"model.safetensors: is .*{kind}.*copy the weights"):
        export_onnx(tmp_path / "snapshot", tmp_path / "snapshot" / "out.onnx")
    export_onnx(tmp_path / "snapshot", tmp_path / "out.onnx", weights="copy", verify=True)


def test_a_copy_stands_alone(tmp_path: Path) -> None:
    config = smollm3(vocab_size=2000, hidden_size=128, intermediate_size=256)
    specification = write_checkpoint(tmp_path / "model", config, "bfloat16")
    (tmp_path / "copy").mkdir()
    result = export_onnx(tmp_path / "model", tmp_path / "copy" / "out.onnx", weights="copy")
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == ["out.onnx", "out.onnx.data"]
    assert result.bytes_written == sum(file.stat().st_size for file in (tmp_path / "copy").iterdir())
    logits = specification(tokens(1, 6))[0]
    moved = (tmp_path / "copy").rename(tmp_path / "moved")
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    onnx.checker.check_model(str(moved / "out.onnx"), full_check=True)
    assert_close(open_session(moved / "out.onnx")(tokens(1, 6))[0], logits)


def test_a_small_copy_is_one_file(tmp_path: Path) -> None:
    result = export_onnx(refimpl.init(qwen3()), tmp_path / "out.onnx", verify=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]
    assert result.weights == "copy"
    stored = np.sum([np.prod(tensor.dims) for tensor in initialisers(result.path).values() if ".weight" in tensor.name])
    assert stored == refimpl.blueprint(qwen3()).num_parameters()
