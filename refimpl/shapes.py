"""Shape checks: bind the letters of the dimension key to sizes, or say in one sentence what does not fit.

The dimension key, used in names (`scores_BHTS`), in docstrings and in messages:

    B batch             T query positions (new tokens)   S key positions (cache + new)   D model width
    H query heads       G key/value heads                R = H / G query heads a group   K query/key head width
    J value head width  P rotated part of K              C vocabulary rows of a table    F feed-forward width
    V vocabulary        L layers, rank of a latent       I input width, O output width of a linear map
    E experts           A experts a token (top-k)        N blocks that share a scale, Q bytes of a block
    N unrotated part of K where it is named for itself   M depths of prediction (the model's, then its modules')
    W taps of a convolution, Z = W - 1 inputs it keeps   (D: its channels)
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from refimpl.numerics import LazyArray, is_float


def check(layer: str, **arrays: tuple[Any, str]) -> dict[str, int]:
    """Bind each letter of each pattern to one size, e.g. `check("linear", x=(x, "...I"), weight=(w, "OI"))`.

    A leading `...` stands for any number of axes, a trailing `?` for an array that may be absent (None). Returns
    letter -> size.
    ValueError names the layer, the argument, the shape it has and the shape it needs.
    """
    sizes: dict[str, int] = {}
    bound_by: dict[str, str] = {}
    for name, (array, pattern) in arrays.items():
        if array is None and pattern.endswith("?"):
            continue
        pattern = pattern.removesuffix("?")
        if not isinstance(array, (np.ndarray, LazyArray)):
            raise ValueError(f"{layer}: {name} is a {type(array).__name__} but needs a NumPy array of shape {spell(pattern)}")
        letters = pattern.removeprefix("...")
        open_front = pattern != letters
        shape = array.shape[array.ndim - len(letters) :] if open_front and array.ndim >= len(letters) else array.shape
        if len(shape) != len(letters):
            raise ValueError(f"{layer}: {name} has shape {array.shape} but needs {spell(pattern)}")
        for letter, size in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(
                    f"{layer}: {name} has shape {array.shape} but needs {spell(pattern)} "
                    f"with {letter} = {sizes[letter]} as in {bound_by[letter]}"
                )
            bound_by.setdefault(letter, name)
    return sizes


def check_floats(layer: str, **arrays: Any) -> None:
    """Require one computing format, float64 or float32 (or wider), of all given arrays; None is skipped."""
    first: tuple[str, np.dtype[Any]] | None = None
    for name, array in arrays.items():
        if array is None:
            continue
        if not isinstance(array, (np.ndarray, LazyArray)):
            raise ValueError(f"{layer}: {name} is a {type(array).__name__} but needs a NumPy array")
        if not is_float(array.dtype) or array.dtype.itemsize < 4:
            raise ValueError(
                f"{layer}: {name} has dtype {array.dtype} but needs float64 or float32 "
                "(narrower formats go through refimpl.numerics.low_precision)"
            )
        if first is None:
            first = (name, array.dtype)
        elif array.dtype != first[1]:
            raise ValueError(f"{layer}: {name} has dtype {array.dtype} but {first[0]} has {first[1]}; they must be equal")


def check_integers(layer: str, **arrays: Any) -> None:
    """Require integer arrays; None is skipped."""
    for name, array in arrays.items():
        if array is not None and array.dtype.kind not in "iu":
            raise ValueError(f"{layer}: {name} has dtype {array.dtype} but needs integers")


def check_numbers(layer: str, *, above: float | None = None, at_least: float | None = None, **numbers: Any) -> None:
    """Require finite real numbers, each `above` or `at_least` a bound where one is given."""
    for name, value in numbers.items():
        fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        fits = fits and (abs(value) <= sys.float_info.max if isinstance(value, int) else np.isfinite(value))
        if not fits or (above is not None and value <= above) or (at_least is not None and value < at_least):
            raise ValueError(f"{layer}: {name} is {value!r} but needs a {spell_bound(above=above, at_least=at_least)}")


def check_flags(layer: str, **flags: Any) -> None:
    """Require bools."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool)):
            raise ValueError(f"{layer}: {name} is {value!r} but needs True or False")


def spell_bound(*, above: float | None = None, at_least: float | None = None) -> str:
    """What a number must be, in words."""
    if above == 0:
        return "positive number"
    if above is not None:
        return f"number above {above:g}"
    return "finite number" if at_least is None else f"number of at least {at_least:g}"


def check_counts(layer: str, **counts: Any) -> None:
    """Require integers of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{layer}: {name} is {value!r} but needs a positive integer")


def spell(pattern: str) -> str:
    """`"...BT"` as `[..., B, T]`."""
    front = ["..."] if pattern.startswith("...") else []
    return "[" + ", ".join([*front, *pattern.removeprefix("...")]) + "]"
