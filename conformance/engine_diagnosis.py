"""Diagnosis of an engine as a black box: logits of a checkpoint, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance.diagnosis import model_suspects
from conformance.difference import at_tokens, expected_taps
from conformance.judge import failure, judge_one
from conformance.verdict import Judgement, Suspect
from refimpl.api import load
from refimpl.model import check_tokens
from refimpl.numerics import FORMATS, Array, float_format, is_float, plain


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with the logits, and the faults that would make them so, nearest first."""

    judgement: Judgement
    suspects: tuple[Suspect, ...]

    @property
    def right(self) -> bool:
        return self.judgement.verdict == "pass"

    def record(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return {**self.judgement.record(), "suspects": [suspect.record() for suspect in self.suspects]}

    def text(self) -> str:
        """The same in words."""
        if self.right:
            return f"the logits are right: {self.judgement.share:.0%} of the budget used"
        lines = [f"the logits are wrong: {self.judgement.sentence}"]
        if self.judgement.worst:
            lines.append(f"worst at {self.judgement.worst}")
        lines += [f"looks like {suspect.text()}" for suspect in self.suspects] or [
            "no known bug, nor two of them, looks like it"
        ]
        return "\n      ".join(lines)


def diagnose_logits(checkpoint: Path, rows: Sequence[Sequence[int]], logits: Array, dtype: str) -> Diagnosis:
    """What `logits` of the tokens `rows`, [B, T, V] or of a single row [T, V], say of an engine that computes in `dtype`."""
    float_format(dtype, among=tuple(FORMATS))
    model = load(checkpoint)
    tokens = check_tokens(rows, model.blueprint.vocab_size)
    expected = expected_taps(model, tokens, dtype)
    index = expected.names.index("logits")
    stable = np.ones(tokens.shape, bool)
    for place in range(index):
        stable = expected.stable(place, stable)
    answered = logits[None] if logits.ndim == 2 and len(tokens) == 1 else logits
    truth = expected.truths[index]
    if answered.shape != truth.shape:
        return Diagnosis(judgement=failure("shape", f"shape {answered.shape} but {truth.shape} is needed"), suspects=())
    if not is_float(answered.dtype):
        return Diagnosis(judgement=failure("dtype", f"dtype {answered.dtype} but a float format is needed"), suspects=())
    expectation = expected.expectation(index, stable)
    kept = at_tokens(answered.astype(truth.dtype), stable)
    judgement = judge_one(kept, expectation, dtype, axes="BTV" if kept.ndim == 3 else "NV", wider=True)
    if judgement.verdict == "pass":
        return Diagnosis(judgement=judgement, suspects=())

    def ask(engine: Any) -> Array:
        return at_tokens(np.asarray(plain(engine(tokens)[0]), dtype=truth.dtype), stable)

    found = model_suspects(checkpoint, ask, kept, expectation, dtype, pairs=True)
    return Diagnosis(judgement=judgement, suspects=found)
