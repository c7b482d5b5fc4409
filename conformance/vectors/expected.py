"""What is expected of an answer, in files: the truth in float64, and what the judge allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.judge import Expectation
from conformance.vectors.question import Question
from refimpl.numerics import Array, is_float


def expected_tensors(question: Question, expectations: Sequence[Expectation]) -> dict[str, Array]:
    """The truths by the names of the outputs, in float64, int64 or bool."""
    truths = zip(question.names, expectations, strict=True)
    return {name: _plain(one.truth) for name, one in truths}


def expected_records(question: Question, expectations: Sequence[Expectation], axes: Sequence[str]) -> list[dict[str, Any]]:
    """The outputs of case.json, with shapes, and how each is compared."""
    outputs = question.record()["outputs"]
    return [
        {**output, "shape": list(one.truth.shape), "axes": letters, **comparison(one)}
        for output, one, letters in zip(outputs, expectations, axes, strict=True)
    ]


def comparison(expectation: Expectation) -> dict[str, Any]:
    """How an output is compared with the truth: exactly, or within a budget in two norms."""
    if expectation.noise is None:
        return {"comparison": "exact"}
    budget = expectation.settled().budget
    return {"comparison": "budget", "max_budget": budget.maximum, "rms_budget": budget.rms}


def _plain(truth: Array) -> Array:
    if truth.dtype == bool:
        return truth
    return truth.astype(np.float64 if is_float(truth.dtype) else np.int64)
