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
from export.initialisers import check_in_place, copied, in_place, inline
from export.lowerings import LOWERINGS
from export.source import LATENT_FORMS, Exported, LatentForm, Source, open_source
from export.staging import data_file, staged
from export.verify import Verification, verify_export
from refimpl.numerics import COMPUTE_FORMATS, Array, float_format

Placement = Literal["in-place", "copy"]
PLACEMENTS = ("in-place", "copy")
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
    latent: LatentForm | None = None,
    opset: int = DEFAULT_OPSET,
    lowerings: Mapping[str, Callable[..., Any]] = LOWERINGS,
) -> ExportResult:
    """Write `source`, a checkpoint directory or a `refimpl.Model`, as an ONNX model.

    weights: "in-place" points into the checkpoint's own files, so that `output` must lie beside them; "copy" writes a
      self-contained model, with `<output>.data` beside it unless it is small. By default a directory's weights stay in
      place and a model's are copied.
    dtype: the format in which the graph computes; float64 needs "copy".
    verify: run the graph in onnxruntime against the specification (`export.verify`); failing is an ExportError.
    taps: make every named intermediate value an output.
    latent: the form of latent attention, for models that have it: "absorbed", the form of a checkpoint, whose cache is the
      latents, or "expanded", whose cache is the keys and values of every head.
    opset: the version of ONNX's operators; from 27 on linear attention and its convolution are operators of their own in
      float32, for runtimes that have them.
    lowerings: the bodies of the layers, by name.
    Whatever fails, what was at `output` before is untouched and nothing new stays.
    ExportError for a call that cannot be served; CheckpointError for a checkpoint that is not what it should be.
    """
    start = time.perf_counter()
    path = _output_path(output)
    _check_options(weights, dtype, latent, opset, lowerings, verify=verify, taps=taps)
    exported = open_source(source) if latent is None else open_source(source).in_form(latent)
    placement: Placement = weights or ("copy" if exported.checkpoint is None else "in-place")
    _check_placement(exported, path, placement, dtype)
    verification = None
    with staged(path, beside=placement == "in-place") as draft:
        model = model_graph(
            exported.blueprint,
            exported.layout,
            _tensors(exported, draft, placement, dtype),
            dtype=float_format(dtype, among=COMPUTE_FORMATS),
            opset=opset,
            taps=taps,
            lowerings=lowerings,
        )
        draft.write_bytes(model.SerializeToString())
        files = [file for file in (draft, data_file(draft)) if file.exists()]
        bytes_written = sum(file.stat().st_size for file in files)
        seconds = time.perf_counter() - start
        if verify:
            verification = _verified(exported, draft, path, dtype)
    return ExportResult(
        path=path,
        weights=placement,
        dtype=dtype,
        bytes_written=bytes_written,
        seconds=seconds,
        inputs=tuple(value.name for value in model.graph.input),
        outputs=tuple(value.name for value in model.graph.output),
        verification=verification,
    )


def _output_path(output: object) -> Path:
    """`output` as the path of a graph in a directory that exists."""
    name = os.fspath(output) if isinstance(output, os.PathLike) else output
    if not isinstance(name, str) or "\0" in name:
        raise ExportError(f"output is {output!r} but must be the path of the .onnx file to write")
    path = Path(name)
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: the name of a graph must end in .onnx")
    if not os.path.isdir(path.parent):
        raise ExportError(f"{path}: there is no directory {path.parent}")
    return path


def _check_options(
    weights: object, dtype: object, latent: object, opset: object, lowerings: object, **switches: object
) -> None:
    """ExportError for an option that is none of its values."""
    if weights is not None and weights not in PLACEMENTS:
        raise ExportError(f"weights is {weights!r} but must be 'in-place' or 'copy'")
    if not isinstance(dtype, str) or dtype not in COMPUTE_FORMATS:
        raise ExportError(f"dtype is {dtype!r} but must be one of {', '.join(COMPUTE_FORMATS)}")
    if latent is not None and latent not in LATENT_FORMS:
        raise ExportError(f"latent is {latent!r} but must be 'absorbed' or 'expanded'")
    if not isinstance(opset, int) or isinstance(opset, bool) or not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise ExportError(f"opset is {opset!r} but must be one of {OLDEST_OPSET} to {onnx_opset_version()}")
    if not isinstance(lowerings, Mapping):
        raise ExportError(f"lowerings is a {type(lowerings).__name__} but must map the name of each layer to its body")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ExportError(f"{name} is {value!r} but must be True or False")


def _check_placement(exported: Exported, path: Path, placement: Placement, dtype: str) -> None:
    """ExportError for weights that cannot stay in place."""
    if placement == "copy":
        return
    if exported.checkpoint is None:
        raise ExportError(
            'a model has no files whose weights could stay in place: export its checkpoint, or use weights="copy"'
        )
    if dtype != "float32":
        raise ExportError(f'a graph in {dtype} needs its weights copied (weights="copy"); in place it computes in float32')
    check_in_place(exported.checkpoint, exported.tensor_names(), path)


def _tensors(exported: Exported, path: Path, placement: Placement, dtype: str) -> dict[str, TensorProto]:
    """The weights of the graph, tensor by tensor; copies, in the stored format or a model's in `dtype`, are written."""
    names = exported.tensor_names()
    if placement == "in-place":
        assert exported.checkpoint is not None
        return in_place(exported.checkpoint, names)
    checkpoint, weights = exported.checkpoint, exported.specification(dtype).weights
    read: Callable[[str], Array] = weights.__getitem__ if checkpoint is None else checkpoint.read
    if exported.blueprint.num_parameters() <= INLINE_PARAMETERS:
        return inline(read, names)
    return copied(read, names, path)


def _verified(exported: Exported, draft: Path, path: Path, dtype: str) -> Verification:
    """The verification of `draft`, whose errors name the graph as the caller knows it."""
    try:
        return verify_export(exported, draft, dtype)
    except ExportError as error:
        raise ExportError(str(error).replace(str(draft), str(path))) from error.__cause__
