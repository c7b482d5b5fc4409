"""The specification as a backend: its own functions in the tested dtype, and its own models."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from conformance.readings import on_floats
from refimpl.api import read_config
from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS, is_float, low_precision, plain
from refimpl.ops import Rounded

name = "numpy"
version = f"{np.__version__} (specification {refimpl.SPEC_VERSION})"
dtypes = tuple(FORMATS)
NARROW = {FORMATS["bfloat16"], FORMATS["float16"]}


def __getattr__(function: str) -> Callable[..., Any]:
    if function in VOCABULARY:
        found = VOCABULARY[function]
        return found if "dtype" in signature(found).parameters else _in_dtype_of_inputs(found)
    raise AttributeError(function)


def load(checkpoint_dir: Path) -> Callable[..., Any]:
    """The model, rounding every step where the checkpoint is stored in a narrow format."""
    dtype = read_config(checkpoint_dir).get("torch_dtype", "float32")
    if FORMATS[dtype] not in NARROW:
        return refimpl.load(checkpoint_dir, dtype)
    model = refimpl.load(checkpoint_dir, "float32")
    return model.with_ops(Rounded(model.ops, dtype))


def _in_dtype_of_inputs(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def evaluate(*values: Any, **options: Any) -> Any:
        narrow = next((value.dtype for value in values if isinstance(value, np.ndarray) and value.dtype in NARROW), None)
        if narrow is None:
            return function(*values, **options)

        def rounding(value: Any) -> Any:
            return low_precision(value, narrow) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

        result = function(*map(rounding, values), **{key: rounding(value) for key, value in options.items()})
        return on_floats(lambda array: plain(array).astype(narrow), result)

    return evaluate
