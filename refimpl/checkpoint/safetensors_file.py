"""The header of one safetensors file, parsed strictly into a table of tensors.

The format: the length of the header (8 bytes, little-endian), the header (a JSON object: tensor name -> dtype, shape and
data_offsets, which count from the end of the header), then the data, which the tensors cover without holes or overlaps.
Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from refimpl.checkpoint.dtypes import DTYPES
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.json_object import parse_object

METADATA = "__metadata__"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_DIMENSIONS = 64  # NumPy's
MAX_ARRAY_BYTES = 2**63 - 1
GIT_LFS_POINTER = b"version "


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `nbytes` bytes from byte `offset` of `file`, row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, in the order of their data. CheckpointError when the file is malformed."""
    try:
        with file.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            header = _read_header_bytes(file, stream, file_bytes)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    entries = parse_object(header, f"{file}: the header")
    _check_metadata(file, entries.pop(METADATA, {}))
    data_start = LENGTH_BYTES + len(header)
    tensors = [_tensor(file, name, entry, data_start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_coverage(file, tensors, data_start, file_bytes)
    return {tensor.name: tensor for tensor in tensors}


def _read_header_bytes(file: Path, stream: BinaryIO, file_bytes: int) -> bytes:
    prefix = stream.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        raise CheckpointError(f"{file}: has {file_bytes} bytes but a safetensors file has at least {LENGTH_BYTES}: truncated?")
    if prefix == GIT_LFS_POINTER:
        raise CheckpointError(f"{file}: is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{file}: announces a header of {length} bytes but at most {MAX_HEADER_BYTES} are allowed: not a safetensors file?"
        )
    if LENGTH_BYTES + length > file_bytes:
        raise CheckpointError(
            f"{file}: announces a header up to byte {LENGTH_BYTES + length} but has only {file_bytes} bytes: truncated?"
        )
    header = stream.read(length)
    if not header.startswith(b"{"):
        raise CheckpointError(f"{file}: the header must be a JSON object but starts with {header[:1]!r} instead of b'{{'")
    return header


def _check_metadata(file: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{file}: {METADATA} must map strings to strings but is {_shown(metadata)}")


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    where = f"{file}: tensor {name!r}"
    if not _is_unicode(name):
        raise CheckpointError(f"{where} has a name that is not valid Unicode")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} needs exactly the keys dtype, shape and data_offsets but its entry is {_shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where} has unknown dtype {_shown(dtype)}; known are {', '.join(DTYPES)}")
    if not _are_natural(shape):
        raise CheckpointError(f"{where} has shape {_shown(shape)} but needs a list of non-negative integers")
    _check_addressable(where, dtype, shape)
    if not _are_natural(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where} has data_offsets {_shown(offsets)} but needs [begin, end] with 0 <= begin <= end")
    begin, end = offsets
    nbytes = prod(shape) * DTYPES[dtype].itemsize
    if end - begin != nbytes:
        raise CheckpointError(f"{where} has {end - begin} bytes of data but {dtype} of shape {shape} needs {nbytes}")
    return TensorInfo(name, dtype, tuple(shape), file, data_start + begin, nbytes)


def _check_addressable(where: str, dtype: str, shape: list[int]) -> None:
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{where} has {len(shape)} dimensions but at most {MAX_DIMENSIONS} are supported")
    # NumPy refuses a huge dimension even beside a zero, where the file's size alone would not give it away.
    if prod(size for size in shape if size) * DTYPES[dtype].itemsize > MAX_ARRAY_BYTES:
        raise CheckpointError(f"{where} has shape {_shown(shape)}, which is too large to address")


def _check_coverage(file: Path, tensors: Iterable[TensorInfo], data_start: int, file_bytes: int) -> None:
    """Tensors, sorted by offset, follow each other without holes or overlaps up to the end of the file."""
    position, previous = data_start, "the header"
    for tensor in tensors:
        if tensor.offset + tensor.nbytes > file_bytes:
            raise CheckpointError(
                f"{file}: tensor {tensor.name!r} ends at byte {tensor.offset + tensor.nbytes} "
                f"but the file has only {file_bytes} bytes: truncated?"
            )
        if tensor.offset != position:
            relation = "overlaps" if tensor.offset < position else "leaves a hole after"
            raise CheckpointError(
                f"{file}: tensor {tensor.name!r} {relation} {previous}: it starts at byte {tensor.offset}, not {position}"
            )
        position, previous = tensor.offset + tensor.nbytes, f"tensor {tensor.name!r}"
    if position != file_bytes:
        raise CheckpointError(f"{file}: has {file_bytes - position} surplus bytes after {previous}")


def _are_natural(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _is_unicode(name: str) -> bool:
    """Whether `name` can be written as UTF-8: JSON escapes can spell half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
