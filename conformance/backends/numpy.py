"""The specification as a backend: its own functions in the tested dtype, and its own models."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from conformance.readings import on_floats
from refimpl.api import read_config
from refimpl.layers import VOCABULARY
from refimpl.layers.precision import converted, stays_wide
from refimpl.layers.signatures import signature_of
from refimpl.model import Model
from refimpl.numerics import FORMATS, Array, is_float, low_precision, plain
from refimpl.ops import Rounded

name = "numpy"
version = f"{np.__version__} (specification {refimpl.SPEC_VERSION})"
dtypes = tuple(FORMATS)
NARROW = {FORMATS["bfloat16"], FORMATS["float16"]}


def __getattr__(function: str) -> Callable[..., Any]:
    if function in VOCABULARY:
        found = VOCABULARY[function]
        return found if "dtype" in signature_of(function).parameters else _in_dtype_of_inputs(found)
    raise AttributeError(function)


def trace(checkpoint_dir: Path, tokens: Array) -> dict[str, Array]:
    """The taps of the model on tokens [B, T]."""
    return plain(load(checkpoint_dir).trace(tokens))


def load(checkpoint_dir: Path) -> Model:
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

        name = function.__name__
        values, options = converted(name, values, options, narrow=rounding, wide=lambda value: value)
        result = function(*values, **options)

        def stored(place: int, each: Any) -> Any:
            return on_floats(lambda array: plain(array).astype(np.float32 if stays_wide(name, place) else narrow), each)

        if isinstance(result, tuple):
            return tuple(stored(place, each) for place, each in enumerate(result))
        return stored(0, result)

    return evaluate
