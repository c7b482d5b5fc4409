"""Ops: the vocabulary that the wiring of a model speaks, its NumPy interpretation, and the wrappers around any interpretation.

The wiring (`refimpl.blocks`, `Blueprint.forward`) calls `ops.rms_norm(x, weight, eps=...)` and so on and never looks into a
value, so one wiring serves every interpreter: NumPy arrays, nodes of an ONNX graph, a backend's own functions. All calls
go through one door, `Ops.call(name, *values, **options)`, which is what a wrapper overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from refimpl.layers import VOCABULARY
from refimpl.layers.precision import converted, stays_wide
from refimpl.numerics import Array, LazyArray, float_format, is_float, low_precision, plain, scalar_like
from refimpl.shapes import check_counts, check_numbers


def add(x: Array, y: Array) -> Array:
    """x + y, of equal shapes (the residual connection)."""
    if x.shape != y.shape:
        raise ValueError(f"add: y has shape {y.shape} but needs {x.shape}, the shape of x")
    return x + y


def scale(x: Array, *, factor: float) -> Array:
    """factor · x, the factor rounded to the format of x."""
    check_numbers("scale", factor=factor)
    return x * scalar_like(factor, x)


def split_heads(x: Array, *, heads: int) -> Array:
    """[B, T, H·K] -> [B, T, H, K]: head h is the h-th run of K entries."""
    check_counts("split_heads", heads=heads)
    if x.shape[-1] % heads:
        raise ValueError(f"split_heads: the last axis has {x.shape[-1]} entries, which {heads} heads do not divide")
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: Array) -> Array:
    """[B, T, H, K] -> [B, T, H·K], the inverse of `split_heads`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def append(past: Array, new: Array) -> Array:
    """The cache [B, S, ...] followed by the new entries [B, T, ...]: [B, S + T, ...]."""
    if past.ndim != new.ndim or past.shape[:1] + past.shape[2:] != new.shape[:1] + new.shape[2:]:
        raise ValueError(f"append: new has shape {new.shape} but needs {past.shape} with any second size, as past has")
    return np.concatenate([past, new], axis=1)


def split(x: Array, *, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """[..., A + B] -> [..., A] and [..., B]: runs of the last axis, of the given sizes in order."""
    check_counts("split", **{f"sizes[{index}]": size for index, size in enumerate(sizes)})
    if x.shape[-1] != sum(sizes):
        raise ValueError(f"split: the last axis has {x.shape[-1]} entries but the sizes {tuple(sizes)} need {sum(sizes)}")
    return tuple(x[..., end - size : end] for size, end in zip(sizes, np.cumsum(sizes), strict=True))


def concat(*parts: Array) -> Array:
    """[..., A] and [..., B] -> [..., A + B], the inverse of `split`."""
    fronts = {part.shape[:-1] for part in parts}
    if len(fronts) != 1:
        raise ValueError(f"concat: shapes {', '.join(str(part.shape) for part in parts)} differ in more than the last axis")
    return np.concatenate(parts, axis=-1)


GLUE: dict[str, Callable[..., Any]] = {f.__name__: f for f in (add, scale, split_heads, merge_heads, append, split, concat)}


class Ops:
    """An interpreter of the vocabulary: the layers (`refimpl.layers.VOCABULARY`) and the glue between them (`GLUE`).

    `ops.NAME(*values, **options)` is `ops.call("NAME", *values, **options)`. `tap` and `scope` give values their names.
    """

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        """Apply the function `name` of the vocabulary."""
        raise NotImplementedError(f"{type(self).__name__} does not interpret {name}")

    def tap(self, name: str, value: Any) -> Any:
        """Name an intermediate value within the current scope and return it."""
        return value

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the taps inside with `name.`."""
        yield

    def constant(self, array: Array) -> Any:
        """A NumPy array as a value of this interpreter."""
        return array

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in VOCABULARY or name in GLUE:
            return partial(self.call, name)
        raise AttributeError(f"{name!r} is not in the vocabulary of layers and glue operations")


class NumpyOps(Ops):
    """The specification itself: every name is the function of `refimpl.layers`."""

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        function = VOCABULARY.get(name) or GLUE.get(name)
        if function is None:
            raise ValueError(f"no such function in the vocabulary: {name}")
        return function(*values, **options)


class Wrapper(Ops):
    """Ops around other ops: everything is passed on, for a subclass to intercept."""

    def __init__(self, inner: Ops) -> None:
        self.inner = inner

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        return self.inner.call(name, *values, **options)

    def tap(self, name: str, value: Any) -> Any:
        return self.inner.tap(name, value)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        with self.inner.scope(name):
            yield

    def constant(self, array: Array) -> Any:
        return self.inner.constant(array)


class Traced(Wrapper):
    """Records every tapped value under its full name, in order of computation, in `values`."""

    def __init__(self, inner: Ops) -> None:
        super().__init__(inner)
        self.values: dict[str, Any] = {}
        self._path: list[str] = []

    def tap(self, name: str, value: Any) -> Any:
        self.values[".".join([*self._path, name])] = value
        return super().tap(name, value)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self._path.append(name)
        try:
            with super().scope(name):
                yield
        finally:
            self._path.pop()


class Replaced(Wrapper):
    """Answers some names with other functions: a backend's own (the rest falls back), or one faulty variant (a mutant)."""

    def __init__(self, inner: Ops, functions: Mapping[str, Callable[..., Any]]) -> None:
        unknown = sorted(set(functions) - set(VOCABULARY) - set(GLUE))
        if unknown:
            raise ValueError(f"no such function in the vocabulary: {', '.join(unknown)}")
        super().__init__(inner)
        self.functions = dict(functions)

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        if name in self.functions:
            return self.functions[name](*values, **options)
        return super().call(name, *values, **options)


class Rounded(Wrapper):
    """Low precision as a released model computes it: every weight and every result rounded to `dtype`.

    Except what every release keeps in float32 (`refimpl.layers.precision`): frequencies, correction biases, decays, states.
    """

    def __init__(self, inner: Ops, dtype: str) -> None:
        super().__init__(inner)
        self.dtype = float_format(dtype, among=("bfloat16", "float16"))

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        values, options = converted(name, values, options, narrow=self._round, wide=_float32)
        result = super().call(name, *values, **options)
        if not isinstance(result, tuple):
            return result if stays_wide(name, 0) else self._round(result)
        return tuple(each if stays_wide(name, place) else self._round(each) for place, each in enumerate(result))

    def _round(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and is_float(value.dtype):
            return low_precision(plain(value), self.dtype)
        return RoundedStack(value, self.dtype) if isinstance(value, LazyArray) else value


def _float32(value: Any) -> Any:
    return plain(value).astype(np.float32) if isinstance(value, np.ndarray) and is_float(value.dtype) else value


class RoundedStack(LazyArray):
    """A lazy stack of which each entry is rounded to `precision` when it is read."""

    def __init__(self, stack: LazyArray, precision: np.dtype[Any]) -> None:
        self.shape, self.dtype = stack.shape, np.dtype(np.float32)
        self._stack, self._precision = stack, precision

    def __getitem__(self, index: Any) -> Array:
        return low_precision(self._stack[index], self._precision)
