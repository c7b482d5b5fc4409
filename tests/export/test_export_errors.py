"""Calls of the exporter that cannot be served end in one sentence, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import refimpl
from export import ExportError, export_onnx
from refimpl.checkpoint import CheckpointError
from tests.export.exported_models import write_checkpoint
from tests.tiny import qwen3


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, qwen3())
    return tmp_path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "linked"}, "weights is 'linked' but must be 'in-place' or 'copy'"),
        ({"dtype": "float64"}, 'a graph in float64 needs its weights copied \\(weights="copy"\\)'),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16' but must be one of float64, float32"),
        ({"opset": 22}, "opset is 22 but must be one of 23 to"),
        ({"opset": 99}, "opset is 99 but must be one of 23 to"),
        ({"opset": "latest"}, "opset is 'latest' but must be one of 23 to"),
    ],
)
def test_options(checkpoint: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        export_onnx(checkpoint, checkpoint / "out.onnx", **options)
    assert not (checkpoint / "out.onnx").exists()


def test_the_output_needs_the_suffix_of_a_graph(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.safetensors: the name of a graph must end in \.onnx"):
        export_onnx(checkpoint, checkpoint / "model.safetensors")


def test_the_output_needs_a_directory(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="there is no directory"):
        export_onnx(checkpoint, checkpoint / "missing" / "out.onnx", weights="copy")


def test_the_output_may_not_be_a_directory(checkpoint: Path) -> None:
    (checkpoint / "out.onnx").mkdir()
    with pytest.raises(ExportError, match=r"out\.onnx: cannot be written \(Is a directory\)"):
        export_onnx(checkpoint, checkpoint / "out.onnx")
    assert not list(checkpoint.glob(".*"))


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        export_onnx(tmp_path / "missing", tmp_path / "out.onnx")
    with pytest.raises(CheckpointError, match="no config"):
        export_onnx(tmp_path, tmp_path / "out.onnx")
    with pytest.raises(ExportError, match="got a int to export but need a checkpoint directory or a refimpl model"):
        export_onnx(3, tmp_path / "out.onnx")  # type: ignore[arg-type]


def test_a_model_has_no_files_to_point_at(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a model has no files"):
        export_onnx(refimpl.init(qwen3()), tmp_path / "out.onnx", weights="in-place")


def test_a_wrong_checkpoint_is_refused(checkpoint: Path) -> None:
    write_checkpoint(checkpoint / "other", qwen3(intermediate_size=32))
    (checkpoint / "config.json").write_text((checkpoint / "other" / "config.json").read_text())
    with pytest.raises(CheckpointError, match="has shape"):
        export_onnx(checkpoint, checkpoint / "out.onnx")
