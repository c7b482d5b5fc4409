"""Decorators: in which format an implementation under test computes."""

from __future__ import annotations

from functools import wraps

import numpy as np

from conformance.readings import on_floats
from refimpl.numerics import is_float, low_precision, plain


def computing_in(wide):
    """A decorator: the function sees its float arrays in `wide`(dtype) and its result is rounded once."""

    def decorate(function):
        @wraps(function)
        def evaluate(*values, **options):
            dtype = next(v.dtype for v in (*values, *options.values()) if isinstance(v, np.ndarray) and is_float(v.dtype))
            to = np.dtype(wide) if dtype.itemsize <= np.dtype(wide).itemsize else dtype

            def widened(value):
                return value.astype(to) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

            result = function(*map(widened, values), **{key: widened(value) for key, value in options.items()})
            return on_floats(lambda one: one.astype(dtype), result)

        return evaluate

    return decorate


def rounding_every_step(function):
    """A decorator: every NumPy operation inside the function rounds to the tested dtype."""

    @wraps(function)
    def evaluate(*values, **options):
        dtype = next(v.dtype for v in (*values, *options.values()) if isinstance(v, np.ndarray) and is_float(v.dtype))
        if dtype.itemsize >= 4:
            return function(*values, **options)

        def narrow(value):
            return low_precision(value, dtype) if isinstance(value, np.ndarray) and is_float(value.dtype) else value

        result = function(*map(narrow, values), **{key: narrow(value) for key, value in options.items()})
        return on_floats(lambda one: plain(one).astype(dtype), result)

    return evaluate
