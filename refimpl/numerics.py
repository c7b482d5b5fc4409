"""Number formats: which there are, what one rounding is, and arithmetic that rounds after every step.

The specification computes in float64 (the oracle) or float32 and casts nothing. What a *low precision* release computes is
a second, explicit reading of the same functions: hand them `LowPrecision` arrays, and every step rounds to the
format; the functions that released models evaluate in float32 are marked `@float32_inside` and round once, at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
P = ParamSpec("P")
R = TypeVar("R")

FORMATS: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
COMPUTE_FORMATS = ("float64", "float32")


class LazyArray(ABC):
    """A stack of arrays of one shape, of which each is read when it is asked for: what a layer takes that needs few of them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, index: Any) -> Array:
        """Entry `index`, an integer, of the first axis."""


def float_format(name: str, *, among: tuple[str, ...] = tuple(FORMATS)) -> np.dtype[Any]:
    """The NumPy dtype called `name`. ValueError when it is not one of `among`."""
    if str(name) not in among:
        raise ValueError(f"dtype is {str(name)!r} but must be one of {', '.join(among)}")
    return FORMATS[str(name)]


def is_float(dtype: npt.DTypeLike) -> bool:
    """Whether `dtype` is a floating-point format to compute in: NumPy's own, or bfloat16, but none of eight bits."""
    dtype = np.dtype(dtype)
    return (dtype.kind == "f" and dtype.itemsize > 1) or dtype in FORMATS.values()


def unit_roundoff(name: str) -> float:
    """Half the distance from 1 to the next number: the largest relative error of one rounding (2^-8 for bfloat16)."""
    return float(ml_dtypes.finfo(float_format(name)).eps) / 2


def smallest_step(name: str) -> float:
    """The distance between subnormal numbers: below it relative error means nothing."""
    return float(ml_dtypes.finfo(float_format(name)).smallest_subnormal)


class LowPrecision(np.ndarray[Any, Any]):
    """Numbers of a narrow format, carried in float32; every NumPy operation on them rounds its result to the format.

    Products and sums inside a matrix multiplication or a reduction accumulate in float32 and round once, as matrix units do.
    """

    precision: np.dtype[Any] | None

    def __array_finalize__(self, parent: Any) -> None:
        self.precision = getattr(parent, "precision", None)

    def __setitem__(self, place: Any, value: Any) -> None:
        plain(self)[place] = value if self.precision is None else plain(low_precision(value, self.precision))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        precision = precision_of(inputs, options)
        targets = options.pop("out", (None,))
        result = rounded(getattr(ufunc, method)(*map(plain, inputs), **plain(options)), precision)
        if targets[0] is None:
            return result
        plain(targets[0])[...] = plain(result)
        return targets[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = function(*plain(args), **plain(kwargs))
        return rounded(result, precision_of(args, kwargs))


def low_precision(array: npt.ArrayLike, dtype: npt.DTypeLike) -> LowPrecision:
    """`array` rounded to `dtype` (bfloat16 or float16), as a `LowPrecision` array."""
    rounded_values = np.asarray(array).astype(np.dtype(dtype)).astype(np.float32)
    result = rounded_values.view(LowPrecision)
    result.precision = np.dtype(dtype)
    return result


def plain(value: Any) -> Any:
    """`value` with every `LowPrecision` array in it (also in tuples, lists and dicts) as a plain float32 array."""
    if isinstance(value, LowPrecision):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def rounded(value: Any, precision: np.dtype[Any] | None) -> Any:
    """`value` with every float array in it (also in tuples) rounded to `precision`; unchanged when that is None."""
    if isinstance(value, tuple):
        return tuple(rounded(item, precision) for item in value)
    if precision is None or not isinstance(value, (np.ndarray, np.floating)) or not is_float(value.dtype):
        return value
    return low_precision(value, precision)


def precision_of(*values: Any) -> np.dtype[Any] | None:
    """The narrow format of the first `LowPrecision` array found in `values`, None when there is none."""
    return next((array.precision for array in _low_precision_arrays(values)), None)


def _low_precision_arrays(value: Any) -> Iterator[LowPrecision]:
    if isinstance(value, LowPrecision):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _low_precision_arrays(item)
    elif isinstance(value, dict):
        yield from _low_precision_arrays(list(value.values()))


def float32_inside(function: Callable[P, R]) -> Callable[P, R]:
    """Dtype rule: on low-precision inputs `function` computes in float32 and rounds its result once."""

    @wraps(function)
    def evaluate(*args: P.args, **kwargs: P.kwargs) -> R:
        precision = precision_of(args, kwargs)
        if precision is None:
            return function(*args, **kwargs)
        return rounded(function(*plain(args), **plain(kwargs)), precision)

    return evaluate


def float32_state(function: Callable[P, tuple[Array, Array]]) -> Callable[P, tuple[Array, Array]]:
    """Dtype rule: on low-precision inputs `function` computes in float32, rounds its result once and its state not at all."""

    @wraps(function)
    def evaluate(*args: P.args, **kwargs: P.kwargs) -> tuple[Array, Array]:
        result, state = function(*plain(args), **plain(kwargs))
        return rounded(result, precision_of(args, kwargs)), state

    return evaluate


def scalar_like(value: float, array: Array) -> Any:
    """`value` rounded to the format of `array`: what a model does that stores a constant as a tensor of its own dtype."""
    precision = precision_of(array)
    return float(np.asarray(value).astype(precision)) if precision is not None else array.dtype.type(value)
