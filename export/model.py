"""The exporter: a checkpoint directory or a model as an ONNX file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnx import TensorProto
from onnx.defs import onnx_opset_version

from export.assembly import model_graph
from export.errors import ExportError
from export.graph import DEFAULT_OPSET
from export.initialisers import copied, data_file, in_place, inline, replacing
from export.lowerings import LOWERINGS
from export.source import Exported, Source, open_source
from export.verify import Verification, verify_export
from refimpl.numerics import COMPUTE_FORMATS, float_format

Placement = Literal["in-place", "copy"]
INLINE_PARAMETERS = 1 << 18  # a model of at most so many parameters is one file
OLDEST_OPSET = 23


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written: the graph at `path` (and `<path>.data` where weights were copied beside it)."""

    path: Path
    weights: Placement
    dtype: str
    bytes_written: int
    seconds: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    verification: Verification | None

    def summary(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return {
            "path": str(self.path),
            "weights": self.weights,
            "dtype": self.dtype,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "verification": None if self.verification is None else self.verification.summary(),
        }


def export_onnx(
    source: Source,
    output: str | os.PathLike[str],
    *,
    weights: Placement | None = None,
    dtype: str = "float32",
    verify: bool = False,
    taps: bool = False,
    opset: int = DEFAULT_OPSET,
    lowerings: Mapping[str, Callable[..., Any]] = LOWERINGS,
) -> ExportResult:
    """Write `source`, a checkpoint directory or a `refimpl.Model`, as an ONNX model.

    weights: "in-place" points into the checkpoint's own files, so that `output` must lie beside them; "copy" writes a
      self-contained model, with `<output>.data` beside it unless it is small. By default a directory's weights stay in
      place and a model's are copied.
    dtype: the format in which the graph computes; float64 needs "copy".
    verify: run the graph in onnxruntime against the specification (`export.verify`); failing is an ExportError, and
      nothing is left behind.
    taps: make every named intermediate value an output.
    lowerings: the bodies of the layers, by name.
    ExportError for a call that cannot be served; CheckpointError for a checkpoint that is not what it should be.
    """
    start = time.perf_counter()
    path = Path(output)
    exported = open_source(source)
    placement: Placement = weights or ("copy" if exported.checkpoint is None else "in-place")
    _check_call(exported, path, placement, dtype, opset)
    tensors = _tensors(exported, path, placement, dtype)
    model = model_graph(
        exported.blueprint,
        tensors,
        dtype=float_format(dtype, among=COMPUTE_FORMATS),
        opset=opset,
        taps=taps,
        lowerings=lowerings,
    )
    with replacing(path) as stream:
        stream.write(model.SerializeToString())
    seconds = time.perf_counter() - start
    files = [path, data_file(path)] if _is_beside(tensors, path) else [path]
    return ExportResult(
        path=path,
        weights=placement,
        dtype=dtype,
        bytes_written=sum(file.stat().st_size for file in files),
        seconds=seconds,
        inputs=tuple(value.name for value in model.graph.input),
        outputs=tuple(value.name for value in model.graph.output),
        verification=_verify_or_remove(exported, files, dtype) if verify else None,
    )


def _check_call(exported: Exported, path: Path, placement: str, dtype: str, opset: int) -> None:
    """ExportError for what cannot be served, before anything is written."""
    float_format(dtype, among=COMPUTE_FORMATS)
    if placement not in ("in-place", "copy"):
        raise ExportError(f"weights is {placement!r} but must be 'in-place' or 'copy'")
    if not isinstance(opset, int) or not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise ExportError(f"opset is {opset!r} but must be one of {OLDEST_OPSET} to {onnx_opset_version()}")
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: the name of a graph must end in .onnx")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: there is no directory {path.parent}")
    if placement == "in-place" and exported.checkpoint is None:
        raise ExportError(
            'a model has no files whose weights could stay in place: export its checkpoint, or use weights="copy"'
        )
    if placement == "in-place" and dtype != "float32":
        raise ExportError(f'a graph in {dtype} needs its weights copied (weights="copy"); in place it computes in float32')


def _tensors(exported: Exported, path: Path, placement: Placement, dtype: str) -> dict[str, TensorProto]:
    """The weights of the graph, parameter by parameter; copies, in the stored format or a model's in `dtype`, are written."""
    names = exported.blueprint.names
    if placement == "in-place":
        assert exported.checkpoint is not None
        return in_place(exported.checkpoint, names, path)
    arrays = exported.specification(dtype).weights if exported.checkpoint is None else exported.arrays
    if exported.blueprint.num_parameters() <= INLINE_PARAMETERS:
        return inline(arrays, names)
    return copied(arrays, names, path)


def _is_beside(tensors: Mapping[str, TensorProto], path: Path) -> bool:
    """Whether the weights were copied into a file beside the graph."""
    locations = {entry.value for tensor in tensors.values() for entry in tensor.external_data if entry.key == "location"}
    return data_file(path).name in locations


def _verify_or_remove(exported: Exported, files: list[Path], dtype: str) -> Verification:
    """The verification of the graph `files[0]`; a graph that fails does not stay."""
    try:
        return verify_export(exported, files[0], dtype)
    except BaseException:
        for file in files:
            file.unlink()
        raise
