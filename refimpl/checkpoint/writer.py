"""Writing checkpoints as transformers does: config.json and model.safetensors, or shards and their index; in Mistral's format
params.json and consolidated.safetensors.

Tensors called NAME@TP-RRR are written in the tensor-parallel layout instead, NAME into a file of rank RRR.

The same tensors and configuration give the same bytes, on every machine.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from refimpl.checkpoint.dtypes import DTYPES, NAMES
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.file_names import FileNames, file_names, preferred_configs
from refimpl.checkpoint.safetensors_file import LENGTH_BYTES, METADATA
from refimpl.checkpoint.tensor_parallel import COMMON, check_parts, part_file_name, part_of, split_name

ALIGNMENT = 8
FRAMEWORK = {"format": "pt"}  # transformers refuses files that do not name a framework


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the header says of a tensor, known before its data is written; `key` is its name in the mapping."""

    key: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def save_checkpoint(
    directory: str | os.PathLike[str],
    config: dict[str, Any],
    tensors: Mapping[str, npt.NDArray[Any]],
    *,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes the configuration and the tensors, each file under a temporary name first.

    max_shard_bytes: when the tensors have more bytes together they are split, in the order of the mapping, into shards of at
    most so many bytes (a larger tensor gets a shard of its own); None writes one file. With slices this holds for the common
    tensors and for each rank.

    CheckpointError, before anything is written, when a tensor, a name or the configuration cannot be stored or the directory
    holds files of another checkpoint that these would not replace.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"the configuration is a {type(config).__name__} but must be a dict")
    target = Path(directory)
    layouts = [_layout(name, array) for name, array in tensors.items()]
    names = file_names(config)
    config_text = _json_text(target / names.config, config)
    files = _files(layouts, max_shard_bytes, names)
    indexed = not any(file_name == names.single or part_of(file_name) for file_name in files)
    _prepare(target, {*files, names.index} if indexed else set(files), names)
    for file_name, shard in files.items():
        _write_safetensors(target / file_name, shard, tensors)
    if indexed:
        weight_map = {layout.name: file_name for file_name, shard in files.items() for layout in shard}
        total_size = sum(layout.nbytes for layout in layouts)
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        _write_text(target / names.index, _json_text(target / names.index, index))
    _write_text(target / names.config, config_text)


def _layout(name: str, array: npt.NDArray[Any]) -> _Layout:
    if not isinstance(name, str) or split_name(name)[0] == METADATA or not name.isprintable():
        raise CheckpointError(f"tensor name {name!r} cannot be stored: it must be a printable string other than {METADATA!r}")
    if not isinstance(array, np.ndarray):
        raise CheckpointError(f"tensor {name!r} is a {type(array).__name__} but must be a NumPy array")
    dtype = NAMES.get(array.dtype.newbyteorder("<"))
    if dtype is None:
        raise CheckpointError(f"tensor {name!r} has dtype {array.dtype}, which safetensors cannot store; known are {_known()}")
    return _Layout(name, split_name(name)[0], dtype, array.shape, array.nbytes)


def _known() -> str:
    return ", ".join(str(dtype) for dtype in NAMES)


def _split(layouts: list[_Layout], max_shard_bytes: int | None) -> list[list[_Layout]]:
    """Consecutive tensors, as many as fit, a shard; at least one shard, which may be empty."""
    if max_shard_bytes is not None and (type(max_shard_bytes) is not int or max_shard_bytes < 1):
        raise CheckpointError(f"max_shard_bytes is {max_shard_bytes!r} but must be a positive integer or None")
    shards: list[list[_Layout]] = [[]]
    filled = 0
    for layout in layouts:
        if max_shard_bytes is not None and shards[-1] and filled + layout.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(layout)
        filled += layout.nbytes
    return shards


def _files(layouts: list[_Layout], max_shard_bytes: int | None, names: FileNames) -> dict[str, list[_Layout]]:
    """The names of the files, and the tensors that each holds."""
    parts: defaultdict[str, list[_Layout]] = defaultdict(list)
    for layout in layouts:
        parts[split_name(layout.key)[1]].append(layout)
    if not set(parts) <= {COMMON}:
        return _part_files(parts, max_shard_bytes)
    shards = _split(layouts, max_shard_bytes)
    if len(shards) == 1:
        return {names.single: shards[0]}
    return {names.shard(number, len(shards)): shard for number, shard in enumerate(shards, 1)}


def _part_files(parts: Mapping[str, list[_Layout]], max_shard_bytes: int | None) -> dict[str, list[_Layout]]:
    """The same in the tensor-parallel layout: the common files have the first numbers, those of each rank the next."""
    check_parts("the tensors", {part: {layout.name: layout.dtype for layout in held} for part, held in parts.items()})
    groups = {part: _split(held, max_shard_bytes) for part, held in parts.items()}
    first = {part: 0 if part == COMMON else len(groups.get(COMMON, ())) for part in groups}
    return {
        part_file_name(number, part): shard
        for part, shards in groups.items()
        for number, shard in enumerate(shards, first[part])
    }


def _prepare(directory: Path, written: set[str], names: FileNames) -> None:
    """Makes the directory. CheckpointError when it already holds what would contradict the files to be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = sorted(os.listdir(directory))
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be made a directory ({error.strerror})") from None
    for name in present:
        if name not in written and (name in (names.single, names.index, *preferred_configs(names)) or part_of(name)):
            raise CheckpointError(f"{directory}: already holds {name}, which would contradict the new files; remove it first")


def _write_safetensors(file: Path, layouts: list[_Layout], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    # Wide elements first: without holes, this is what aligns each tensor to its own element.
    ordered = sorted(layouts, key=lambda layout: (-DTYPES[layout.dtype].itemsize, layout.name))
    header = _header(ordered)
    with _replacing(file) as stream:
        stream.write(len(header).to_bytes(LENGTH_BYTES, "little"))
        stream.write(header)
        for layout in ordered:
            stream.write(_data(tensors[layout.key], layout).data)


def _header(layouts: Iterable[_Layout]) -> bytes:
    """The header, padded with spaces so that the data after it is aligned."""
    entries: dict[str, Any] = {METADATA: FRAMEWORK}
    position = 0
    for layout in layouts:
        end = position + layout.nbytes
        entries[layout.name] = {"dtype": layout.dtype, "shape": layout.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return text + b" " * (-len(text) % ALIGNMENT)


def _data(array: npt.NDArray[Any], layout: _Layout) -> npt.NDArray[np.uint8]:
    # As bytes, because the formats of ml_dtypes have no buffer protocol.
    return np.ascontiguousarray(array, dtype=DTYPES[layout.dtype]).reshape(-1).view(np.uint8)


def _json_text(file: Path, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be written as JSON ({error})") from None


def _write_text(file: Path, text: str) -> None:
    with _replacing(file) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `file` when all went well and leaves nothing behind otherwise."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
