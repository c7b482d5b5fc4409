"""How variants are judged: on cases whose truths and budgets are made once for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.backend import Backend
from conformance.blocks import BackendOps, BlockCase
from conformance.calls import attempt
from conformance.case import NOT_COVERED
from conformance.family import LayerCase, as_tuple
from conformance.judge import Expectation, judge, judge_one
from conformance.variants.variant import Variant
from conformance.verdict import Judgement


class JudgedLayer:
    """A case of a layer, and what is expected of each choice that a candidate may make in it.

    settled: with the budget of all rounds of samples from the start, so that every share refers to it.
    """

    def __init__(self, case: LayerCase, *, settled: bool = False) -> None:
        self.case = case
        self._settled = settled
        self._expected: dict[bytes, tuple[Expectation, ...]] = {}

    def judge(self, backend: Backend) -> Judgement:
        """As `LayerCase.judge`."""
        case = self.case
        if case.function not in backend.functions:
            return NOT_COVERED

        def compare() -> Judgement:
            outputs = as_tuple(case.ask(backend))
            return judge(outputs, self._expectations(outputs), case.dtype, axes=case.family.axes, wider=case.family.wider)

        with np.errstate(all="ignore"):
            return attempt(compare)

    def _expectations(self, outputs: tuple[Any, ...]) -> tuple[Expectation, ...]:
        chooses = self.case.family.chooses
        key = outputs[0].astype(np.float64).tobytes() if chooses else b""
        if key not in self._expected:
            expected = self.case.expected(outputs)
            self._expected[key] = tuple(one.settled() for one in expected) if self._settled else expected
        return self._expected[key]


class JudgedBlock:
    """A block on the values of a seed: what a variant makes of it, in its own wiring where it has one."""

    def __init__(self, case: BlockCase, seed: int = 0) -> None:
        self.case = replace(case, id=f"{case.id}-seed{seed}") if seed else case
        self._expected: Expectation | None = None

    def judge(self, variant: Variant) -> Judgement:
        """As `BlockCase.judge`; not covered where the variant changes nothing in the block."""
        case, block = self.case, variant.block(self.case.block)
        ops = BackendOps(variant.inside(), case.dtype)
        if variant.wiring is not None and block == case.block:
            return NOT_COVERED

        def compare() -> Judgement:
            output = case.answer(ops, block)
            if not ops.used:
                return NOT_COVERED
            self._expected = self._expected or case.expected()
            return judge_one(output, self._expected, case.dtype, axes="BTD")

        with np.errstate(all="ignore"):
            return attempt(compare)
