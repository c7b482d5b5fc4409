"""One function of the vocabulary as a model of its own: what a backend runs to be tested layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from export.errors import ExportError
from export.graph import DEFAULT_OPSET, Graph, tensor_type
from export.lowerings import LOWERINGS
from export.ops import GraphOps
from export.runtimes import Run
from refimpl import SPEC_VERSION
from refimpl.layers import VOCABULARY
from refimpl.layers.fp8 import SCALE_FORMATS
from refimpl.layers.signatures import signature_of
from refimpl.numerics import Array

HELD_GRAPHS = 256
UE8M0 = SCALE_FORMATS["ue8m0"]
DYNAMIC_AXES = 2  # batch and length, or the rows of a matrix; the widths after them are known when a graph is made
# A state has no length; how many taps there are decides how many products.
FEWER_DYNAMIC_AXES = {"state": 1, "causal_conv1d.weight": 0}


def split_arguments(name: str, *values: Any, **options: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and the options of a call of the layer `name`, by the names of its signature; absent ones are left out.

    Powers of two in eight bits are given as bytes, which is how graphs hold them.
    ExportError for a name that is no layer, ValueError for a call that does not fit its signature.
    """
    if name not in VOCABULARY:
        raise ExportError(f"{name!r} is not a layer; known are {', '.join(VOCABULARY)}")
    try:
        bound = signature_of(name).bind(*values, **options).arguments
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    arrays = {
        key: value.view(np.uint8) if value.dtype == UE8M0 else value
        for key, value in bound.items()
        if isinstance(value, np.ndarray)
    }
    return arrays, {key: value for key, value in bound.items() if key not in arrays and value is not None}


def layer_model(
    name: str, arrays: Mapping[str, Array], options: Mapping[str, Any], *, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """The layer `name` as a model: an input for each array (its name, dtype and rank; the values do not matter).

    The first two axes of every input, batch and length, are dynamic; the others are fixed, and all but the batch of a state.
    The outputs are `output`, or `output_0` and so on where the layer has several.
    """
    if name not in LOWERINGS:
        raise ExportError(f"{name!r} is not a layer; known are {', '.join(LOWERINGS)}")
    graph = Graph(opset)
    inputs = {
        key: graph.input(
            key,
            tensor_type(
                array.dtype,
                [f"{key}_axis{axis}" if axis < _dynamic(name, key) else size for axis, size in enumerate(array.shape)],
            ),
        )
        for key, array in arrays.items()
    }
    results = GraphOps(graph, np.dtype(np.float32)).call(name, **inputs, **options)
    if isinstance(results, tuple):
        for index, result in enumerate(results):
            graph.output(result, f"output_{index}")
    else:
        graph.output(results, "output")
    return graph.model(name, f"The layer {name}.", {"spec_version": SPEC_VERSION})


def _dynamic(name: str, key: str) -> int:
    """How many axes of the argument `key` of a layer are dynamic."""
    return FEWER_DYNAMIC_AXES.get(f"{name}.{key}", FEWER_DYNAMIC_AXES.get(key, DYNAMIC_AXES))


class LayerRunner:
    """Runs single layers in a runtime: `runner("rms_norm", x, weight, eps=1e-6)` is the layer's result as NumPy arrays.

    The graph of a call is made and loaded once for the ranks, widths, dtypes and options that it has.
    """

    def __init__(self, load: Callable[[onnx.ModelProto], Run], *, opset: int = DEFAULT_OPSET) -> None:
        self._load = load
        self._opset = opset
        self._runs: dict[tuple[Any, ...], Run] = {}

    def __call__(self, name: str, *values: Any, **options: Any) -> Any:
        arrays, settings = split_arguments(name, *values, **options)
        widths = tuple((key, array.dtype, array.ndim, array.shape[_dynamic(name, key) :]) for key, array in arrays.items())
        key = (name, widths, tuple(settings.items()))
        if key not in self._runs:
            if len(self._runs) == HELD_GRAPHS:
                del self._runs[next(iter(self._runs))]
            self._runs[key] = self._load(layer_model(name, arrays, settings, opset=self._opset))
        results = tuple(self._runs[key](arrays).values())
        return results if len(results) > 1 else results[0]
