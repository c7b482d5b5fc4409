"""What it means that two sets of logits agree, and the tokens that are compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import refimpl
from refimpl.ops import Wrapper

from .variants import Variant

Array = npt.NDArray[Any]

# Both sides compute in float64 in another order of summation, which leaves a few 1e-15; any difference in meaning is
# far above, for every parameter and switch is set away from its neutral value.
SAME_MEANING = 1e-10
FLOAT32_ROUNDING = 100 * 2.0**-24
# How much more than the roundings of its results the sums inside layers may lose, with and without recurrences.
SUMS, SHORT_SUMS = 32, 8


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A checkpoint and its two readings in float64: the specification's and the peer's.

    expanded: whether the specification's has latent attention in its expanded form.
    """

    variant: Variant
    directory: Path
    model: refimpl.Model
    peer: Any
    expanded: bool = False

    def load(self, dtype: str, *, stream: bool = False) -> refimpl.Model:
        """The specification's reading in another format, or streamed."""
        model = refimpl.load(self.directory, dtype=dtype, stream=stream)
        return model.expanded() if self.expanded else model

    def tokens(self, batch: int, length: int, *, seed: int = 0) -> Array:
        return np.random.default_rng(seed).integers(0, self.model.blueprint.vocab_size, (batch, length))


def relative_error(actual: Array, expected: Array) -> float:
    """The largest error as a share of the largest expected value."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


class RoundedResults(Wrapper):
    """Every result rounded to float32, once, and computed in float64: what float32 loses at the least."""

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        result = super().call(name, *values, **options)
        return tuple(map(self._rounded, result)) if isinstance(result, tuple) else self._rounded(result)

    def _rounded(self, value: Any) -> Any:
        return value.astype(np.float32).astype(np.float64) if getattr(value, "dtype", None) == np.float64 else value


def rounding_of_results(pair: Pair, tokens: Array) -> float:
    """What a model whose small sizes amplify errors (a norm of next to nothing) makes of one rounding a result."""
    model = pair.model.with_ops(RoundedResults(pair.model.ops))
    return relative_error(model(tokens)[0], pair.model(tokens)[0])


def assert_agree(actual: Array, expected: Array, *, real: Array | None = None) -> None:
    """Float64 logits [B, T, V] mean the same, at the tokens where `real` [B, T] is 1."""
    assert actual.dtype == expected.dtype == np.float64
    if real is not None:
        actual, expected = actual[real == 1], expected[real == 1]
    assert relative_error(actual, expected) < SAME_MEANING
