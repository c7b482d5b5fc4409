"""Vectors of models: tokens, true logits and taps, beside a checkpoint that the phases of a model share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from conformance.case import TOKENS
from conformance.judge import Expectation
from conformance.models import PHASES, SteppedEngine, expectation
from conformance.tiny_models import MODELS
from conformance.vectors.expected import expected_records
from conformance.vectors.question import CASE, EXPECTED, IN, TAPS, Question, write_json, write_tensors
from refimpl.numerics import Array


def model_vector(root: Path, place: Path, case: Any) -> tuple[str, str]:
    """The files of a model's case at `root / place`; its digest, and the place."""
    tiny = MODELS[case.index]
    checkpoint = root / "checkpoints" / f"{tiny.architecture}-{tiny.variant}-{TOKENS[case.dtype]}"
    if not checkpoint.exists():
        tiny.write(checkpoint, case.dtype)
    question = _question(case, checkpoint)
    mask = question.arrays.get("attention_mask")
    expected = expectation(case.index, case.dtype, padding=mask is not None)
    output = {**expected_records(question, [expected], ["BTV"])[0], "shape": list(_whole(expected, mask).shape)}
    (root / place).mkdir(parents=True)
    write_json(
        root / place / CASE,
        {
            **question.record(),
            "checkpoint": os.path.relpath(checkpoint, root / place),
            "id": case.id,
            "rule": case.rule,
            "ties": False,
            "outputs": [output],
        },
    )
    write_tensors(root / place / IN, question.arrays)
    write_tensors(root / place / EXPECTED, {"logits": _whole(expected, mask)})
    if case.phase == "prefill":
        write_tensors(root / place / TAPS, refimpl.load(checkpoint, dtype="float64").trace(question.arrays["tokens"]))
    return question.digest(), str(place)


def _question(case: Any, checkpoint: Path) -> Question:
    """What the phase of a case asks."""
    recorder = _Recorder(checkpoint)
    PHASES[case.phase](recorder, MODELS[case.index].tokens())
    return recorder.question


def _whole(expected: Expectation, mask: Array | None) -> Array:
    """True logits [B, T, V]; 0 at padding, of which the expectation has no rows."""
    truth = expected.truth.astype(np.float64)
    if mask is None:
        return truth
    logits = np.zeros((*mask.shape, truth.shape[-1]))
    logits[mask == 1] = truth
    return logits


class _Recorder(SteppedEngine):
    """Keeps the question that a phase asks."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self.question: Question

    def __call__(self, tokens: Array, *, attention_mask: Array | None = None) -> Array:
        self.question = Question.of_model(self._checkpoint, tokens, attention_mask=attention_mask)
        return np.zeros((*tokens.shape, 1))

    def in_steps(self, tokens: Array, lengths: Sequence[int]) -> Array:
        self.question = Question.of_model(self._checkpoint, tokens, steps=lengths)
        return np.zeros((*tokens.shape, 1))
