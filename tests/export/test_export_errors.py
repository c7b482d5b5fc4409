"""Calls of the exporter that cannot be served end in one sentence, before anything is written."""

from __future__ import annotations

import errno
import os
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
        ({"opset": True}, "opset is True but must be one of 23 to"),
        ({"opset": 1}, "opset is 1 but must be one of 23 to"),
        ({"weights": ""}, "weights is '' but must be 'in-place' or 'copy'"),
        ({"weights": []}, "weights is \\[\\] but must be 'in-place' or 'copy'"),
        ({"dtype": 5}, "dtype is 5 but must be one of float64, float32"),
        ({"dtype": None}, "dtype is None but must be one of float64, float32"),
        ({"taps": "yes"}, "taps is 'yes' but must be True or False"),
        ({"verify": None}, "verify is None but must be True or False"),
        ({"lowerings": None}, "lowerings is a NoneType but must map the name of each layer to its body"),
        ({"lowerings": 5}, "lowerings is a int but must map the name of each layer to its body"),
        ({"lowerings": {}}, "lowerings has no body for the layer 'token_order', which the model needs"),
        ({"lowerings": {"token_order": 5}}, "lowerings has no body for the layer 'token_order', which the model needs"),
    ],
)
def test_options(checkpoint: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        export_onnx(checkpoint, checkpoint / "out.onnx", **options)
    assert not (checkpoint / "out.onnx").exists()


def test_the_output_needs_the_suffix_of_a_graph(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.safetensors: the name of a graph must end in \.onnx"):
        export_onnx(checkpoint, checkpoint / "model.safetensors")


@pytest.mark.parametrize("output", [None, 5, b"a.onnx", "a\0.onnx"])
def test_the_output_is_a_path(checkpoint: Path, output: Any) -> None:
    with pytest.raises(ExportError, match=r"but must be the path of the \.onnx file to write"):
        export_onnx(checkpoint, output)


@pytest.mark.parametrize("weights", ["in-place", "copy"])
@pytest.mark.parametrize("length", [252, 300])
def test_a_name_that_the_file_system_refuses(checkpoint: Path, weights: Any, length: int) -> None:
    files = set(checkpoint.iterdir())
    output = checkpoint / f"{'n' * length}.onnx"
    with pytest.raises(ExportError, match=r"n\.onnx: cannot be written \(File name too long\)"):
        export_onnx(checkpoint, output, weights=weights)
    assert set(checkpoint.iterdir()) == files


@pytest.mark.parametrize("weights", ["in-place", "copy"])
def test_a_directory_that_cannot_be_written(checkpoint: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_bytes", refused)  # permissions do not hold the superuser back
    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(ExportError, match=r"out\.onnx: cannot be written \(Permission denied\)"):
        export_onnx(checkpoint, checkpoint / "out.onnx", weights=weights)


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


@pytest.mark.parametrize("source", [None, 5, {}])
def test_sources_of_another_type(tmp_path: Path, source: Any) -> None:
    name = type(source).__name__
    with pytest.raises(ExportError, match=f"got a {name} to export but need a checkpoint directory or a refimpl model"):
        export_onnx(source, tmp_path / "out.onnx")


def test_a_model_has_no_files_to_point_at(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a model has no files"):
        export_onnx(refimpl.init(qwen3()), tmp_path / "out.onnx", weights="in-place")


def test_a_wrong_checkpoint_is_refused(checkpoint: Path) -> None:
    write_checkpoint(checkpoint / "other", qwen3(intermediate_size=32))
    (checkpoint / "config.json").write_text((checkpoint / "other" / "config.json").read_text())
    with pytest.raises(CheckpointError, match="has shape"):
        export_onnx(checkpoint, checkpoint / "out.onnx")
