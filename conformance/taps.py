"""What is known of a first difference: the format to judge it in, and the bugs that it looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from conformance.diagnosis import suspects
from conformance.difference import Comparison, Expected, Taps, as_choice, at_tokens
from conformance.mutants import MUTANTS, load
from conformance.verdict import Suspect
from refimpl.api import read_config
from refimpl.numerics import FORMATS, Array, float_format, plain


def tested_dtype(given: str | None, claimed: tuple[str, ...], checkpoint: Path) -> str:
    """What a candidate computes in: as given; or as the checkpoint is stored, if that is among the claimed; or float32."""
    if given is not None:
        float_format(given, among=tuple(FORMATS))
        return given
    config = read_config(checkpoint)
    stored = config.get("torch_dtype", config.get("dtype"))
    if stored in claimed:
        return str(stored)
    return "float32" if "float32" in claimed else claimed[0]


def tap_suspects(
    checkpoint: Path, tokens: Array, expected: Expected, comparison: Comparison, taps: Taps
) -> tuple[Suspect, ...]:
    """The faulty models that have the candidate's value at the first different tap; none where there is no difference.

    To blame is who made it, or a tap before it that the candidate does not show.
    """
    difference = comparison.difference
    if difference is None:
        return ()
    index = expected.names.index(difference.tap)
    truth = expected.truths[index]
    agreed = set(comparison.compared) - {difference.tap}
    suspected = {expected.functions[name] for name in expected.names[: index + 1] if name not in agreed}
    found = []
    for mutant in MUTANTS.values():
        if mutant.call is not None or (mutant.functions and not suspected & set(mutant.functions)):
            continue
        try:
            faulty: Any = load(checkpoint, mutant)  # a Model, as nothing is wrong with the call
            with np.errstate(all="ignore"):
                answer = as_choice(difference.function, plain(faulty.trace(tokens)[difference.tap]))
        except (ValueError, TypeError, KeyError, IndexError, AssertionError):
            continue
        found.append(((mutant.id,), answer))
    shaped = as_choice(difference.function, np.asarray(taps[difference.tap]))
    if shaped.size != truth.size:
        return ()
    stable = comparison.stable
    answers = [(ids, (at_tokens(answer, stable),)) for ids, answer in found if answer.shape == truth.shape]
    compared = (at_tokens(shaped.reshape(truth.shape), stable),)
    return suspects(compared, answers, (expected.expectation(index, stable),), expected.dtype)
