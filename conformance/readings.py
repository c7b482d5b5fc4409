"""Readings: the ways in which the suite evaluates one problem.

A problem (a case, a law, a block, a model) is written once, in wide numbers, as a function of a reading. The reading decides
what becomes of the inputs and of every step:

    Exact       the truth: the specification in float64 (in long double where float64 itself is tested)
    InFormat    the specification in the tested dtype, rounded where a released model rounds
    Unsteady    the specification with every step off by up to one ulp: other libraries' elementary functions and orders
    Perturbed   the truth for inputs that differ by one rounding of the tested dtype
    Candidate   the backend's own functions (conformance.candidate)
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np

from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS, Array, is_float, low_precision, plain, unit_roundoff
from refimpl.ops import NumpyOps, Ops, Rounded

NARROW = ("bfloat16", "float16")


def wide_format(dtype: str) -> np.dtype[Any]:
    """The format in which truths for the tested `dtype` are computed."""
    return np.dtype(np.longdouble if dtype == "float64" else np.float64)


def computing_format(dtype: str) -> str:
    """The format in which a model of `dtype` computes angles and the insides of its functions."""
    return "float64" if dtype == "float64" else "float32"


def on_floats(function: Callable[[Array], Array], value: Any) -> Any:
    """`function` of a float array, or of each in a tuple; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(on_floats(function, item) for item in value)
    if isinstance(value, np.ndarray) and is_float(value.dtype):
        return function(value)
    return value


class Exact:
    """The truth, and what all readings share."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.wide = wide_format(dtype)
        self.angle_format: np.dtype[Any] = self.wide

    def disturb(self, value: Any) -> Any:
        """An input of the problem, as this reading takes it."""
        return value

    def cast(self, value: Any) -> Any:
        """A wide value as the numbers that this reading computes with."""
        return value

    def cast_angles(self, value: Any) -> Any:
        """Frequencies and angles, which no model keeps in a narrow format."""
        return on_floats(lambda array: array.astype(self.angle_format), value)

    def widen(self, value: Any) -> Any:
        """The inverse of `cast`."""
        return on_floats(lambda array: plain(array).astype(self.wide), value)

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        """The function `name` of the vocabulary on wide values, its result widened."""
        cast = self.cast_angles if name == "rope_cos_sin" else self.cast
        options = {key: cast(value) for key, value in options.items()}
        if "dtype" in signature(VOCABULARY[name]).parameters:
            options["dtype"] = self.angle_format
        return self.widen(VOCABULARY[name](*map(cast, values), **options))

    def ops(self) -> Ops:
        """An interpreter of whole wirings, for values made with `cast`."""
        return NumpyOps()


class Perturbed(Exact):
    """Every float input, also a float option, moved by up to one rounding of the tested dtype."""

    def __init__(self, dtype: str, seed: int) -> None:
        super().__init__(dtype)
        self._generator = np.random.default_rng([seed, 1])

    def disturb(self, value: Any) -> Any:
        if isinstance(value, float):
            return value * float(1 + unit_roundoff(self.dtype) * self._generator.uniform(-1, 1))
        return on_floats(self._moved, value)

    def _moved(self, array: Array) -> Array:
        noise = self._generator.uniform(-1, 1, array.shape).astype(self.wide)
        return array * (1 + self.wide.type(unit_roundoff(self.dtype)) * noise)


class InFormat(Exact):
    """The specification in the tested dtype."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self.angle_format = FORMATS[computing_format(dtype)]

    def cast(self, value: Any) -> Any:
        if self.dtype in NARROW:
            return on_floats(lambda array: low_precision(array, FORMATS[self.dtype]), value)
        return on_floats(lambda array: array.astype(FORMATS[self.dtype]), value)

    def ops(self) -> Ops:
        return Rounded(NumpyOps(), self.dtype) if self.dtype in NARROW else NumpyOps()


class Unsteady(Exact):
    """The specification in its computing format (float32 for the narrow ones), every step off by up to one ulp."""

    def __init__(self, dtype: str, seed: int) -> None:
        super().__init__(dtype)
        self.angle_format = FORMATS[computing_format(dtype)]
        self._generator = np.random.default_rng([seed, 2])

    def cast(self, value: Any) -> Any:
        return on_floats(self._unsteady, value)

    def cast_angles(self, value: Any) -> Any:
        return self.cast(value)

    def widen(self, value: Any) -> Any:
        return on_floats(lambda array: array.view(np.ndarray).astype(self.wide), value)

    def _unsteady(self, array: Array) -> Array:
        result = array.astype(self.angle_format).view(UnsteadyArray)
        result.generator = self._generator
        return result


# Results that every implementation computes without error: selections and comparisons.
_EXACT_UFUNCS = {np.maximum, np.minimum, np.negative, np.absolute, np.sign}
_ROUNDING_FUNCTIONS = {np.mean, np.sum, np.einsum, np.dot}


class UnsteadyArray(np.ndarray[Any, Any]):
    """Numbers that every operation returns with a relative error of up to one ulp, drawn anew each time."""

    generator: np.random.Generator | None

    def __array_finalize__(self, parent: Any) -> None:
        self.generator = getattr(parent, "generator", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        generator = _generator_of((*inputs, *options.values()))
        result = getattr(ufunc, method)(*map(_bare, inputs), **{key: _bare(value) for key, value in options.items()})
        return _shaken(result, generator, exact=ufunc in _EXACT_UFUNCS)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        generator = _generator_of((*args, *kwargs.values()))
        result = function(*_bare(args), **_bare(kwargs))
        return _shaken(result, generator, exact=function not in _ROUNDING_FUNCTIONS)


def _bare(value: Any) -> Any:
    if isinstance(value, UnsteadyArray):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(_bare(item) for item in value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value


def _generator_of(values: Any) -> np.random.Generator | None:
    for value in values:
        if isinstance(value, UnsteadyArray) and value.generator is not None:
            return value.generator
        if isinstance(value, (tuple, list)) and (found := _generator_of(value)) is not None:
            return found
    return None


def _shaken(result: Any, generator: np.random.Generator | None, *, exact: bool) -> Any:
    array = np.asarray(result)
    if array.dtype == object:  # np.vectorize computes in Python floats
        array = array.astype(np.float64)
    if not is_float(array.dtype) or generator is None:
        return result
    if not exact:
        ulp = array.dtype.type(2 * unit_roundoff("float32" if array.dtype == np.float32 else "float64"))
        array = array * (1 + ulp * generator.uniform(-1, 1, array.shape).astype(array.dtype))
    shaken = array.view(UnsteadyArray)
    shaken.generator = generator
    return shaken
