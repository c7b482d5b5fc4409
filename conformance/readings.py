"""Readings: the ways in which the suite evaluates one problem.

A problem (a case, a law, a block, a model) is written once, in wide numbers, as a function of a reading. The reading decides
what becomes of the inputs and of every step:

    Exact       the truth: the specification in float64 (in long double where float64 itself is tested)
    InFormat    the specification in the tested dtype, rounded where a released model rounds
    InOtherForm the same, of layers that have another form which is as right (conformance.forms)
    Nearby      the truth for other inputs in that dtype, against which InFormat is measured there
    Unsteady    the specification with every step off by some ulps (conformance.unsteady)
    Perturbed   the truth for inputs that differ by one rounding of the tested dtype
    Candidate   the backend's own functions (conformance.backend)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.forms import OTHER_FORMS
from refimpl.layers import VOCABULARY
from refimpl.layers.precision import converted
from refimpl.layers.signatures import signature_of
from refimpl.numerics import FORMATS, Array, is_float, low_precision, plain, unit_roundoff
from refimpl.ops import NumpyOps, Ops, Replaced, Rounded

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

    def disturb_wide(self, value: Any) -> Any:
        """An input that no model keeps in a narrow format."""
        return self.disturb(value)

    def cast(self, value: Any) -> Any:
        """A wide value as the numbers that this reading computes with."""
        return value

    def cast_wide(self, value: Any) -> Any:
        """What no model keeps in a narrow format: frequencies, decays, states (`refimpl.layers.precision`)."""
        return on_floats(lambda array: array.astype(self.angle_format), value)

    def widen(self, value: Any) -> Any:
        """The inverse of `cast`."""
        return on_floats(lambda array: plain(array).astype(self.wide), value)

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        """The function `name` of the vocabulary on wide values, its result widened."""
        values, options = converted(name, values, options, narrow=self.cast, wide=self.cast_wide)
        if "dtype" in signature_of(name).parameters:
            options.setdefault("dtype", self.angle_format)
        return self.widen(self._function(name)(*values, **options))

    def _function(self, name: str) -> Callable[..., Any]:
        return VOCABULARY[name]

    def ops(self) -> Ops:
        """An interpreter of whole wirings, for values made with `cast`."""
        return NumpyOps()


class Perturbed(Exact):
    """Every number of the input arrays moved by up to one rounding of the tested dtype."""

    def __init__(self, dtype: str, seed: int) -> None:
        super().__init__(dtype)
        self._generator = np.random.default_rng([seed, 1])

    def disturb(self, value: Any) -> Any:
        return self._disturbed(value, self.dtype)

    def disturb_wide(self, value: Any) -> Any:
        return self._disturbed(value, computing_format(self.dtype))

    def _disturbed(self, value: Any, dtype: str) -> Any:
        def moved(array: Array) -> Array:
            noise = self._generator.uniform(-1, 1, array.shape).astype(self.wide)
            return array * (1 + self.wide.type(unit_roundoff(dtype)) * noise)

        return on_floats(moved, value)


class Nearby(Exact):
    """The truth for inputs that are other numbers of the tested dtype, a few ulps away; the same for the same seed."""

    def __init__(self, dtype: str, seed: int | None) -> None:
        super().__init__(dtype)
        self._generator = None if seed is None else np.random.default_rng([seed, 3])

    def disturb(self, value: Any) -> Any:
        return self._disturbed(value, self.dtype)

    def disturb_wide(self, value: Any) -> Any:
        return self._disturbed(value, computing_format(self.dtype))

    def _disturbed(self, value: Any, dtype: str) -> Any:
        generator = self._generator
        if generator is None:
            return value

        def moved(array: Array) -> Array:
            steps = 4 * unit_roundoff(dtype) * generator.uniform(-1, 1, array.shape)
            return (array * (1 + steps)).astype(FORMATS[dtype]).astype(self.wide)

        return on_floats(moved, value)


class InFormat(Nearby):
    """The specification in the tested dtype, for the inputs themselves or (with a seed) for nearby ones."""

    def __init__(self, dtype: str, seed: int | None = None) -> None:
        super().__init__(dtype, seed)
        self.angle_format = FORMATS[computing_format(dtype)]

    def cast(self, value: Any) -> Any:
        if self.dtype in NARROW:
            return on_floats(lambda array: low_precision(array, FORMATS[self.dtype]), value)
        return on_floats(lambda array: array.astype(FORMATS[self.dtype]), value)

    def ops(self) -> Ops:
        inner = self._inner_ops()
        return Rounded(inner, self.dtype) if self.dtype in NARROW else inner

    def _inner_ops(self) -> Ops:
        return NumpyOps()


class InOtherForm(InFormat):
    """InFormat with form `number` of the layers that have so many; `differs` once one of them was called."""

    def __init__(self, dtype: str, number: int, seed: int | None = None) -> None:
        super().__init__(dtype, seed)
        self.differs = False
        self._forms = {name: self._noted(forms[number]) for name, forms in OTHER_FORMS.items() if number < len(forms)}

    def _function(self, name: str) -> Callable[..., Any]:
        return self._forms.get(name, VOCABULARY[name])

    def _inner_ops(self) -> Ops:
        return Replaced(NumpyOps(), self._forms)

    def _noted(self, form: Callable[..., Any]) -> Callable[..., Any]:
        def called(*values: Any, **options: Any) -> Any:
            self.differs = True
            return form(*values, **options)

        return called
