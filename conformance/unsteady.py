"""A reading of the specification in which every step is off: what other libraries do to the last bits, and may.

Elementary functions are off by as much as the OpenCL C specification allows, sums of n terms by √n/2 ulps of the terms'
magnitudes (other orders of summation), everything else by one ulp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from conformance.readings import Exact, computing_format, on_floats
from refimpl.numerics import FORMATS, Array, is_float, unit_roundoff

# In ulps; 1 for what is not listed.
ERRORS: dict[np.ufunc, float] = {
    np.exp: 3,
    np.log: 3,
    np.tanh: 5,
    np.cos: 4,
    np.sin: 4,
    np.sqrt: 3,
    np.divide: 2.5,
    np.power: 16,
    **dict.fromkeys((np.maximum, np.minimum, np.negative, np.absolute), 0),
}
ERF_ERROR = 16.0
SUMS = {np.mean, np.sum}


class Unsteady(Exact):
    """The specification in its computing format (float32 for the narrow ones), every step off by some ulps."""

    def __init__(self, dtype: str, seed: int) -> None:
        super().__init__(dtype)
        self.angle_format = FORMATS[computing_format(dtype)]
        self._shaker = Shaker(computing_format(dtype), seed)

    def cast(self, value: Any) -> Any:
        return on_floats(self._unsteady, value)

    def cast_wide(self, value: Any) -> Any:
        return self.cast(value)

    def widen(self, value: Any) -> Any:
        return on_floats(lambda array: array.view(np.ndarray).astype(self.wide), value)

    def _unsteady(self, array: Array) -> Array:
        result = array.astype(self.angle_format).view(UnsteadyArray)
        result.shaker = self._shaker
        return result


class Shaker:
    """Where the errors come from: a generator, and what an ulp is.

    Within one step equal results have equal errors, as from a library: what is tied stays tied, and is chosen alike.
    """

    def __init__(self, dtype: str, seed: int) -> None:
        self._generator = np.random.default_rng([seed, 2])
        self._ulp = 2 * unit_roundoff(dtype)

    def shake(self, result: Any, size: Any) -> Any:
        """`result` with errors of up to one ulp of `size`, entry by entry."""
        array = np.asarray(result)
        if not is_float(array.dtype):
            return result
        drawn = _uniform(array, self._generator.integers(2**64, dtype=np.uint64))
        noise = self._ulp * drawn * np.where(np.isfinite(array), size, 0.0)
        shaken = np.asarray(array + noise.astype(array.dtype)).view(UnsteadyArray)
        shaken.shaker = self
        return shaken


class UnsteadyArray(np.ndarray[Any, Any]):
    """Numbers that every NumPy operation returns with an error, drawn anew each time."""

    shaker: Shaker | None

    def __array_finalize__(self, parent: Any) -> None:
        self.shaker = getattr(parent, "shaker", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        values, options = _bare(inputs), _bare(options)
        result = getattr(ufunc, method)(*values, **options)
        size: Any
        if ufunc is np.matmul:
            size = math.sqrt(values[0].shape[-1]) / 2 * np.matmul(*map(np.abs, values))
        elif np.asarray(result).dtype == object:  # erf: a Python function, which np.vectorize applies to objects
            result = result.astype(np.float64)
            size = ERF_ERROR * np.abs(result)
        else:
            size = ERRORS.get(ufunc, 1) * np.abs(result)
        return _shaker_of(inputs).shake(result, size)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        values, options = _bare(args), _bare(kwargs)
        result = function(*values, **options)
        size: Any = 0.0
        if function in SUMS:
            terms = np.size(values[0]) / max(np.size(result), 1)
            size = math.sqrt(terms) / 2 * function(np.abs(values[0]), *values[1:], **options)
        return _shaker_of((args, kwargs)).shake(result, size)


def _uniform(values: Array, salt: np.uint64) -> Array:
    """Numbers in [-1, 1) that look drawn but depend on the values alone: SplitMix64 of their bits."""
    bits: Any = values.astype(np.float64).view(np.uint64) ^ salt
    bits = (bits ^ (bits >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> 27)) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> 31)) >> 11) * 2.0**-52 - 1


def _bare(value: Any) -> Any:
    if isinstance(value, UnsteadyArray):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(_bare(item) for item in value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value


def _shaker_of(values: Any) -> Shaker:
    found = _find_shaker(values)
    assert found is not None
    return found


def _find_shaker(value: Any) -> Shaker | None:
    if isinstance(value, UnsteadyArray):
        return value.shaker
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for item in value if (found := _find_shaker(item)) is not None), None)
    return None
