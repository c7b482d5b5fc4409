"""Decorators: in which format an implementation under test computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.readings import on_floats
from refimpl.layers.precision import stays_wide
from refimpl.numerics import is_float, low_precision, plain


def computing_in(wide: npt.DTypeLike) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the function sees its float arrays in `wide`(dtype) and its result is rounded once.

    A function of the vocabulary keeps in float32 what its release keeps there (`refimpl.layers.precision`).
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def evaluate(*values: Any, **options: Any) -> Any:
            dtype = next(v.dtype for v in (*values, *options.values()) if isinstance(v, np.ndarray) and is_float(v.dtype))
            to = np.dtype(wide) if dtype.itemsize <= np.dtype(wide).itemsize else dtype

            def widened(value: Any) -> Any:
                return value.astype(to) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

            result = function(*map(widened, values), **{key: widened(value) for key, value in options.items()})
            return _stored(function.__name__, result, dtype)

        return evaluate

    return decorate


def _stored(name: str, result: Any, dtype: np.dtype[Any]) -> Any:
    """Results in `dtype`, those that stay in float32 in that at least."""
    wide = dtype if dtype.itemsize > 4 else np.dtype(np.float32)

    def stored(place: int, one: Any) -> Any:
        return on_floats(lambda array: array.astype(wide if stays_wide(name, place) else dtype), one)

    return tuple(map(stored, range(len(result)), result)) if isinstance(result, tuple) else stored(0, result)


def rounding_every_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: every NumPy operation inside the function rounds to the tested dtype."""

    @wraps(function)
    def evaluate(*values: Any, **options: Any) -> Any:
        dtype = next(v.dtype for v in (*values, *options.values()) if isinstance(v, np.ndarray) and is_float(v.dtype))
        if dtype.itemsize >= 4:
            return function(*values, **options)

        def narrow(value: Any) -> Any:
            return low_precision(value, dtype) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

        result = function(*map(narrow, values), **{key: narrow(value) for key, value in options.items()})
        return on_floats(lambda one: plain(one).astype(dtype), result)

    return evaluate
