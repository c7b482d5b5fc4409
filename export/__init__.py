"""Models as ONNX graphs: one wiring, one local function a layer, weights that stay in the checkpoint's own files."""

from export.errors import ExportError
from export.layers import layer_model
from export.model import ExportResult, export_onnx

__all__ = ["ExportError", "ExportResult", "export_onnx", "layer_model"]
