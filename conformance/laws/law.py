"""A law: two computations that any correct implementation gives the same result for. It needs no oracle.

The budget is derived as for cases: each side of the law, computed by the specification, has its noise; the candidate's two
sides may differ by twice the sum of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from conformance.backend import Candidate
from conformance.calls import attempt, combining
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.family import ALL_DTYPES
from conformance.judge import Expectation, expect, failure, within
from conformance.readings import Exact, computing_format
from conformance.verdict import Judgement
from refimpl.numerics import FORMATS, Array, unit_roundoff

if TYPE_CHECKING:
    from conformance.backend import Backend

Call = Callable[..., Any]


class Draw:
    """Inputs of a law: wide numbers that the tested dtype holds exactly, as a reading takes them."""

    def __init__(self, reading: Exact, name: str, seed: int, dtype: str) -> None:
        self._reading, self._dtype = reading, dtype
        self.generator = np.random.default_rng([seed, crc32(name.encode())])
        self.roundoff = unit_roundoff(dtype)
        self.wide = reading.wide

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """N(0, scale²)."""
        return self.input(scale * self.generator.standard_normal(shape))

    def grid(self, *shape: int) -> Array:
        """Multiples of 1/8 between -3 and 3, so that sums of two are exact in every dtype."""
        return self.input(self.generator.integers(-24, 25, shape) / 8)

    def input(self, array: Array) -> Array:
        """`array`, rounded to the tested dtype."""
        return self._reading.disturb(array.astype(FORMATS[self._dtype]).astype(self._reading.wide))

    def kept(self, array: Array) -> Array:
        """`array` in float32 at least: an argument that no model keeps in a narrow format."""
        return self._reading.disturb_wide(array.astype(FORMATS[computing_format(self._dtype)]).astype(self._reading.wide))


@dataclass(frozen=True, kw_only=True)
class Law:
    """sides(call, draw) -> (left, right), where call(function, *arrays, **options) is anybody's implementation.

    functions: those that it calls; the first is blamed. statement: the law in words. kept: the sides are of results that stay
    in float32.
    """

    name: str
    functions: tuple[str, ...]
    statement: str
    sides: Callable[[Call, Draw], tuple[Array, Array]]
    phase: str = "any"
    dtypes: tuple[str, ...] = ALL_DTYPES
    kept: bool = False

    def case(self, dtype: str, seed: int = 0) -> LawCase:
        """The law at one dtype, on one draw of inputs."""
        return LawCase(
            id=f"law/{self.functions[0]}_{self.name}-{self.phase}-{TOKENS[dtype]}-s{seed}",
            level="law",
            function=self.functions[0],
            dtype=dtype,
            law=self,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class LawCase(Case):
    """A law on one draw of inputs."""

    law: Law
    seed: int

    @property
    def rule(self) -> str:
        return self.law.statement

    def evaluate(self, reading: Exact) -> tuple[Array, Array]:
        """Both sides in a reading."""
        return self.law.sides(reading.call, Draw(reading, self.law.name, self.seed, self.dtype))

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        if not set(self.law.functions) <= set(backend.functions):
            return NOT_COVERED

        def compare() -> Judgement:
            with combining("the law"):
                sides = self.evaluate(Candidate(backend, self.dtype))
            return agree(*sides, self.expected)

        return attempt(compare)

    def expected(self) -> tuple[Expectation, ...]:
        """What the specification makes of both sides, and what is allowed beside it."""
        return expect(self.evaluate, self.dtype, wide=(0, 1) if self.law.kept else ())


def agree(left: Array, right: Array, expected: Callable[[], Sequence[Expectation]]) -> Judgement:
    """Whether a candidate's two sides of a law agree within what the specification's own sides allow."""
    if left.shape != right.shape:
        return failure("shape", f"one side of the law has shape {left.shape}, the other {right.shape}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return failure("non-finite", "a side of the law has entries that are NaN or infinite")
    return within(left, right, expected(), kind="law")
