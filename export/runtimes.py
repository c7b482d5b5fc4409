"""The runtimes that exported graphs run in: onnxruntime on the CPU or a GPU, and onnx's own reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.errors import ExportError
from refimpl.numerics import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ERRORS_ONLY = 3


def onnxruntime_run(model: Path | onnx.ModelProto, provider: str = CPU) -> Run:
    """`model`, a file or a graph without files, as a function of its inputs. ExportError when onnxruntime refuses it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # of a dozen types without a common base
        raise ExportError(f"onnxruntime refuses the graph {_shown(model)}: {' '.join(str(error).split())}") from error
    if provider not in session.get_providers():  # it falls back to another without a word
        raise ExportError(f"onnxruntime has no {provider} here, only {', '.join(session.get_providers())}")
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def reference_run(model: Path | onnx.ModelProto) -> Run:
    """The same in onnx.reference, whose operators are written in NumPy."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model) if isinstance(model, Path) else model)

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        with np.errstate(all="ignore"):  # its sigmoid computes the branch that it does not choose as well
            results: list[Any] = evaluator.run(None, dict(feeds))
        return dict(zip(evaluator.output_names, map(np.asarray, results), strict=True))

    return run


def _shown(model: Path | onnx.ModelProto) -> str:
    return str(model) if isinstance(model, Path) else repr(model.graph.name)
