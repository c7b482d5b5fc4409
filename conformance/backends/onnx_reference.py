"""onnx.reference as a backend: the exported graphs in ONNX's own evaluator, which is written in NumPy.

It shares the graphs with the `onnxruntime` backend and no code of the runtime with it.
"""

from __future__ import annotations

from conformance.backends.onnxruntime import ExportedBackend
from export.runtimes import reference_run

backend = ExportedBackend("onnx-reference", "onnx", load_model=reference_run, load_layer=reference_run)
