"""The tensors of a graph: byte ranges of a checkpoint's own files, or a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.staging import data_file
from refimpl.checkpoint import Checkpoint, TensorInfo
from refimpl.numerics import Array

ONNX_TYPES = {
    "F64": TensorProto.DOUBLE,
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "U8": TensorProto.UINT8,
    "I32": TensorProto.INT32,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "F8_E5M2": TensorProto.FLOAT8E5M2,
    "F8_E8M0": TensorProto.FLOAT8E8M0,
}
EIGHT_BITS = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E8M0)
ALIGNMENT = 4096  # so that a runtime can map each tensor


def check_in_place(checkpoint: Checkpoint, names: Iterable[str], output: Path) -> None:
    """ExportError when a runtime would refuse to follow `output` to a tensor of the checkpoint.

    That is when the tensor lies in another directory than the graph, or behind a link. names: the tensors of the graph.
    """
    if output.parent.resolve() != checkpoint.directory.resolve():
        raise ExportError(
            f"{output}: lies in {output.parent.resolve()}, but with weights in place a graph must lie in the directory of its "
            f'checkpoint, {checkpoint.directory.resolve()}; write it there or copy the weights (weights="copy")'
        )
    for file in sorted({checkpoint.tensors[name].file for name in names}):
        _check_not_linked(file)


def in_place(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, TensorProto]:
    """Tensors that are byte ranges of the checkpoint's own files, for a graph that lies beside them."""
    return {name: _byte_range(checkpoint.tensors[name]) for name in names}


def _check_not_linked(file: Path) -> None:
    """Runtimes refuse links to weights, because a link may lead out of the model's directory."""
    if file.is_symlink():
        kind, remedy = "a symbolic link, as in the cache of the hub", "download into a directory of its own (--local-dir)"
    elif file.stat().st_nlink > 1:
        kind, remedy = "one of several hard links to a file", "make it a file of its own"
    else:
        return
    raise ExportError(f'{file}: is {kind}, which ONNX runtimes refuse to follow; {remedy} or copy the weights (weights="copy")')


def _byte_range(info: TensorInfo) -> TensorProto:
    tensor = TensorProto(name=info.name, data_type=ONNX_TYPES[info.dtype], dims=info.shape)
    point(tensor, info.file.name, info.offset, info.nbytes)
    return tensor


def point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Make `tensor` one whose data are `length` bytes of a file beside the graph."""
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def as_bytes(kind: int) -> int:
    """The format in which a runtime moves numbers of `kind`, those of eight bits as bytes."""
    return int(TensorProto.UINT8 if kind in EIGHT_BITS else kind)


def byte_tensor(tensor: TensorProto) -> TensorProto:
    """The same data in the format of `as_bytes`."""
    same = TensorProto()
    same.CopyFrom(tensor)
    same.data_type = as_bytes(tensor.data_type)
    return same


def copied(read: Callable[[str], Array], names: Iterable[str], output: Path) -> dict[str, TensorProto]:
    """Tensors whose data are written into a file of their own beside `output`, one at a time."""
    tensors = {}
    with data_file(output).open("wb") as stream:
        for name in names:
            array = np.ascontiguousarray(read(name))
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            tensors[name] = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
            point(tensors[name], data_file(output).name, stream.tell(), array.nbytes)
            stream.write(array.reshape(-1).view(np.uint8).data)
    return tensors


def inline(read: Callable[[str], Array], names: Iterable[str]) -> dict[str, TensorProto]:
    """Tensors whose data are part of the graph's own file."""
    return {name: numpy_helper.from_array(read(name), name) for name in names}
