"""Tensors that another program wrote out, as taps: a directory of .npy files, or of safetensors files.

DIR/layers.0.mixer.q_rope.npy is the tap of that name. DIR/index.json may say under which other names the tensors stand:
{"layers.0.mixer.q_rope": "blk.0.q_roped", ...}, the tap first; those that it does not name keep their own.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from refimpl.checkpoint.json_object import read_object
from refimpl.checkpoint.memory_map import read_tensor
from refimpl.checkpoint.safetensors_file import read_header
from refimpl.numerics import Array

INDEX = "index.json"


def read_dump(directory: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of `directory` by the names of taps. ValueError for a file that is none, or an index that names none."""
    path = Path(directory)
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory of tensors")
    tensors: dict[str, Array] = {}
    for file in sorted(path.iterdir()):
        found = _tensors(file)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise ValueError(f"{file}: a tensor {twice[0]!r} stands in another file of the directory too")
        tensors |= found
    if not tensors:
        raise ValueError(f"{path}: no tensors in this directory, in .npy or .safetensors files")
    return _renamed(path / INDEX, tensors)


def _tensors(file: Path) -> dict[str, Array]:
    if file.suffix == ".npy":
        try:
            return {file.stem: np.load(file, allow_pickle=False)}
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{file}: not an array ({' '.join(str(error).split())})") from None
    if file.suffix == ".safetensors":
        return {name: read_tensor(info) for name, info in read_header(file).items()}
    return {}


def _renamed(index: Path, tensors: dict[str, Array]) -> dict[str, Array]:
    if not index.is_file():
        return tensors
    names = read_object(index)
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index}: needs an object that maps the names of taps to those of tensors")
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise ValueError(f"{index}: names the tensor {missing[0]!r}, which no file of the directory holds")
    others = {name: array for name, array in tensors.items() if name not in set(names.values())}
    return {**others, **{tap: tensors[name] for tap, name in names.items()}}
