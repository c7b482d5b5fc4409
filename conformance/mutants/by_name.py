"""Faulty functions whose arguments go by their names, wherever a caller puts them, and which compute in a wide format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np

from refimpl.layers import VOCABULARY
from refimpl.layers.precision import stays_wide
from refimpl.layers.signatures import signature_of
from refimpl.numerics import is_float, plain

Arguments = dict[str, Any]


def computed(function: str, compute: Callable[[Arguments], Any]) -> Callable[..., Any]:
    """`function` as `compute(arguments)`: floats in float32 or float64, the result rounded once where releases round it."""
    correct = VOCABULARY[function]

    @wraps(correct)
    def faulty(*values: Any, **options: Any) -> Any:
        bound = signature_of(function).bind(*plain(values), **plain(options))
        bound.apply_defaults()
        dtype = next(value.dtype for value in bound.arguments.values() if _is_floats(value))
        wide = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        result = compute({key: value.astype(wide) if _is_floats(value) else value for key, value in bound.arguments.items()})
        several = result if isinstance(result, tuple) else (result,)
        results = tuple(one.astype(wide if stays_wide(function, place) else dtype) for place, one in enumerate(several))
        return results if isinstance(result, tuple) else results[0]

    return faulty


def given(function: str, change: Callable[[Arguments], Mapping[str, Any]]) -> Callable[..., Any]:
    """The right `function` of other arguments: those that `change(arguments)` names."""
    return computed(function, lambda arguments: VOCABULARY[function](**{**arguments, **change(arguments)}))


def without(function: str, *names: str) -> Callable[..., Any]:
    """The right `function` that does not look at some of its optional arguments."""
    return given(function, lambda arguments: dict.fromkeys(names))


def _is_floats(value: Any) -> bool:
    return isinstance(value, np.ndarray) and is_float(value.dtype)
