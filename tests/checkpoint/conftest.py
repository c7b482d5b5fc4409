"""A well-formed checkpoint of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoint.handmade import bytes_file, write_index


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A directory with config.json and the tensor "a" in model.safetensors."""
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    (tmp_path / "model.safetensors").write_bytes(bytes_file({"a": b"aa"}))
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A directory with config.json, "a" in one.safetensors, "b" and "c" in two.safetensors, and the index."""
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    (tmp_path / "one.safetensors").write_bytes(bytes_file({"a": b"aa"}))
    (tmp_path / "two.safetensors").write_bytes(bytes_file({"b": b"bb", "c": b"cc"}))
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    return tmp_path
