"""The list of golden files, and the files themselves: safetensors whose metadata holds one JSON object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from refimpl import SPEC_VERSION
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.memory_map import read_tensor
from refimpl.checkpoint.safetensors_file import read_header
from refimpl.numerics import Array

NAME = "MANIFEST.json"
SCHEMA = 1


class GoldenError(ValueError):
    """A golden file or the manifest is missing, altered or malformed."""


def directory(version: str = SPEC_VERSION) -> Path:
    """Where the golden tensors of a spec version lie."""
    return Path(__file__).parent / version


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest under `root`. GoldenError when there is none or it is not one."""
    path = root / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GoldenError(f"{path}: no such file; `refimpl golden make` writes it") from None
    except ValueError as error:
        raise GoldenError(f"{path}: not JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA or not isinstance(manifest.get("entries"), list):
        raise GoldenError(f"{path}: not a golden manifest of schema {SCHEMA}")
    return manifest


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps({"schema": SCHEMA, **manifest}, indent=1, ensure_ascii=False)
    (root / NAME).write_text(text + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """One golden file; `about` goes into its metadata, under one key so that the bytes are reproducible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.array(array, order="C") for name, array in tensors.items()}
    save_file(contiguous, path, metadata={"golden": json.dumps(about, ensure_ascii=False, sort_keys=True)})


def read_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a golden file."""
    if not path.is_file():
        raise GoldenError(f"{path}: no such file, though the manifest lists it")
    try:
        return {name: np.array(read_tensor(info)) for name, info in read_header(path).items()}
    except CheckpointError as error:
        raise GoldenError(f"not a safetensors file ({error})") from None


def sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise GoldenError(f"{path}: no such file, though the manifest lists it") from None
