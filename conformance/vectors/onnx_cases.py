"""Layers in the layout of ONNX's backend tests: DIR/simple/test_NAME with model.onnx and test_data_set_0/*.pb.

A runtime that has a runner of such tests needs nothing else. The tolerance in data.json, which that runner reads, is the budget
of the maximum; case.json has the whole of the comparison.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from conformance.family import LayerCase
from conformance.vectors.expected import expected_tensors
from conformance.vectors.question import CASE, Question, write_json
from conformance.vectors.write import case_record
from export.errors import ExportError
from export.layers import layer_model, split_arguments


def onnx_vector(root: Path, place: Path, case: LayerCase, question: Question) -> Path | None:
    """A layer's case as an ONNX test; None where no graph can be made of it."""
    try:
        arrays, options = split_arguments(case.function, *case.inputs.arguments.values(), **case.inputs.options)
        model = layer_model(case.function, arrays, options)
    except ExportError:
        return None
    expectations = case.expected()
    name = re.sub(r"[^0-9a-zA-Z]+", "_", f"{case.function}_{place.name}")
    directory = Path("simple") / f"test_{name}"
    data = root / directory / "test_data_set_0"
    data.mkdir(parents=True)
    onnx.save(model, root / directory / "model.onnx")
    for index, value in enumerate(model.graph.input):
        _save(data / f"input_{index}.pb", value.name, arrays[value.name])
    truths = expected_tensors(question, expectations).values()
    for index, (value, truth) in enumerate(zip(model.graph.output, truths, strict=True)):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        _save(data / f"output_{index}.pb", value.name, truth.astype(dtype))
    largest = max(one.settled().budget.maximum for one in expectations)
    write_json(root / directory / "data.json", {"rtol": 0.0, "atol": largest})
    write_json(root / directory / CASE, {**question.record(), **case_record(case, question, expectations)})
    return directory


def _save(path: Path, name: str, array: np.ndarray[Any, Any]) -> None:
    path.write_bytes(numpy_helper.from_array(np.array(array, order="C"), name).SerializeToString())
