"""The runtimes that exported graphs run in: onnxruntime on the CPU or a GPU, and onnx's own reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.errors import ExportError
from refimpl.numerics import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Without this a GPU rounds the factors of every float32 product to 11 bits.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {CPU: {}, CUDA: {"use_tf32": "0"}}
ERRORS_ONLY = 3
USER_DEFINED = 2  # of the formats that ml_dtypes adds to NumPy's


def onnxruntime_run(model: Path | onnx.ModelProto, provider: str = CPU, *, threads: int = 0) -> Run:
    """`model`, a file or a graph without files, as a function of its inputs.

    threads: how many compute one operator, 0 for as many as there are cores.
    ExportError when onnxruntime refuses the graph, and from the function when it fails to run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, PROVIDER_OPTIONS[provider])])
    except Exception as error:  # of a dozen types without a common base
        raise ExportError(f"onnxruntime refuses the graph {_shown(model)}: {_one_line(error)}") from error
    if provider not in session.get_providers():  # it falls back to another without a word
        raise ExportError(f"onnxruntime has no {provider} here, only {', '.join(session.get_providers())}")
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            return dict(zip(names, session.run(names, {name: _fed(array) for name, array in feeds.items()}), strict=True))
        except Exception as error:
            raise ExportError(f"onnxruntime fails to run the graph {_shown(model)}: {_one_line(error)}") from error

    return run


def reference_run(model: Path | onnx.ModelProto) -> Run:
    """The same in onnx.reference, whose operators are written in NumPy."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model) if isinstance(model, Path) else model)

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        with np.errstate(all="ignore"):  # its sigmoid computes the branch that it does not choose as well
            results: list[Any] = evaluator.run(None, dict(feeds))
        return dict(zip(evaluator.output_names, map(np.asarray, results), strict=True))

    return run


def _fed(array: Array) -> Any:
    """`array` as onnxruntime takes it: by its bits where the format is one that NumPy does not have itself."""
    if array.dtype.isbuiltin != USER_DEFINED:
        return array
    from onnxruntime import OrtValue

    bits = array.view(f"u{array.dtype.itemsize}")
    return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, helper.np_dtype_to_tensor_dtype(array.dtype))


def _shown(model: Path | onnx.ModelProto) -> str:
    return str(model) if isinstance(model, Path) else repr(model.graph.name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
