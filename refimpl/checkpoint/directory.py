"""A checkpoint directory: config.json beside model.safetensors, beside shards and their index, or beside the files of the
ranks of the tensor-parallel layout; or params.json beside consolidated.safetensors, or its shards and their index."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.file_names import KNOWN, FileNames
from refimpl.checkpoint.json_object import read_object
from refimpl.checkpoint.memory_map import read_tensor
from refimpl.checkpoint.safetensors_file import TensorInfo, read_header
from refimpl.checkpoint.tensor_parallel import part_of, read_parts

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: the configuration as it was written, and the table of tensors; no data is read yet."""

    directory: Path
    config: dict[str, Any] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)

    def read(self, name: str) -> npt.NDArray[Any]:
        """The tensor `name`: a read-only array in the stored dtype over a memory map of its own, released with the array.

        Safe to call from several threads. CheckpointError when there is no such tensor or its file is gone or has shrunk.
        """
        info = self.tensors.get(name)
        if info is None:
            near = get_close_matches(str(name), self.tensors, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CheckpointError(f"{self.directory}: no tensor {name!r}{hint}")
        return read_tensor(info)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads the configuration and the headers of the safetensors files, never the data.

    CheckpointError when the directory or one of its files is missing, malformed or contradicts another. Files may be
    links, as in the cache of the hub; names in an index may not leave the directory.
    """
    try:
        return _open(Path(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _open(directory: Path) -> Checkpoint:
    if directory.is_file():
        raise CheckpointError(f"{directory}: is a file but needs to be a directory with config.json and safetensors files")
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory")
    for names in KNOWN:
        if config := _file(directory, names.config):
            return Checkpoint(directory, read_object(config), MappingProxyType(_find_tensors(directory, names)))
    raise CheckpointError(f"{directory}: no config.json in this directory")


def _find_tensors(directory: Path, names: FileNames) -> dict[str, TensorInfo]:
    single, index = _file(directory, names.single), _file(directory, names.index)
    parts = {
        file: part for name in sorted(os.listdir(directory)) if (part := part_of(name)) and (file := _file(directory, name))
    }
    kinds = [file.name for file in (single, index, next(iter(parts), None)) if file]
    if len(kinds) > 1:
        raise CheckpointError(f"{directory}: holds both {kinds[0]} and {kinds[1]}; remove the one that does not belong")
    if parts:
        return read_parts(directory, parts)
    if single:
        return read_header(single)
    if index:
        return _read_shards(directory, index)
    others = _other_weights(directory, names)
    raise CheckpointError(f"{directory}: neither {names.single} nor {names.index} in this directory{others}")


def _other_weights(directory: Path, known: FileNames) -> str:
    names = sorted(file.name for file in directory.iterdir())
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if safetensors:
        return f" ({safetensors[0]} alone is not enough: a single file is called {known.single}, shards need their index)"
    pickles = [name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES]
    if pickles:
        return f" ({pickles[0]} is a pickle, which is never loaded: convert it to safetensors)"
    return ""


def _read_shards(directory: Path, index: Path) -> dict[str, TensorInfo]:
    """The tensors of all shards, in the order of the index, which must list exactly what the shards hold."""
    weight_map = _read_weight_map(index)
    shards = {}
    for name in dict.fromkeys(weight_map.values()):
        file = _file(directory, name)
        if file is None:
            raise CheckpointError(f"{directory}: shard {name} is missing, though {index.name} lists it")
        shards[name] = read_header(file)
    _check_unlisted(index, weight_map, shards)
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{index}: puts tensor {name!r} into {shard}, which does not hold it")
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def _check_unlisted(index: Path, weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    holders = defaultdict(list)
    for shard, tensors in shards.items():
        for name in tensors:
            holders[name].append(shard)
    for name, files in holders.items():
        if len(files) > 1:
            raise CheckpointError(f"{index.parent}: tensor {name!r} is in more than one shard: {' and '.join(files)}")
        if name not in weight_map:
            raise CheckpointError(f"{index}: does not list tensor {name!r}, which {files[0]} holds")


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: needs a weight_map, an object from tensor names to file names")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _is_bare_file_name(name):
            raise CheckpointError(
                f"{index}: puts tensor {tensor!r} into {name!r} but needs the bare name of a safetensors file in its directory"
            )
    return weight_map


def _is_bare_file_name(name: str) -> bool:
    """Whether `name` lies in the directory itself, whatever the system's separators, drives and parents look like."""
    bare = PurePosixPath(name).name == name == PureWindowsPath(name).name
    return bare and name.isprintable() and name.endswith(".safetensors")


def _file(directory: Path, name: str) -> Path | None:
    """The file `name` if it is there. A link to nowhere is an error: the file was meant to be there."""
    file = directory / name
    if file.is_file():
        return file
    if file.is_symlink():
        raise CheckpointError(f"{file}: is a link to {os.readlink(file)}, which is not a file")
    return None
