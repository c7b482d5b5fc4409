"""Where the taps of another implementation come from, and what is known of the function whose tap differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conformance.case import rule_text
from conformance.diagnosis import suspects
from conformance.difference import Comparison, Expected, as_choice, at_tokens
from conformance.doors import load_backend
from conformance.dumps import read_dump
from conformance.mutants import MUTANTS, load
from conformance.verdict import Suspect
from refimpl.api import read_config
from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS, Array, float_format, plain

MOST_RULES = 12


def taps_of(backend: str | None, dump: Path | None, checkpoint: Path, tokens: Array) -> Mapping[str, Array]:
    """The taps of a backend (its `trace(checkpoint_dir, tokens)`) or of a directory of tensors."""
    if dump is not None:
        return read_dump(dump)
    return load_backend(backend).trace(checkpoint, tokens)


def tested_dtype(given: str | None, backend: str | None, checkpoint: Path) -> str:
    """What the candidate computes in: as given; or as the checkpoint is stored, if the backend claims that; or float32."""
    if given is not None:
        float_format(given, among=tuple(FORMATS))
        return given
    claimed = tuple(FORMATS) if backend is None else load_backend(backend).dtypes
    config = read_config(checkpoint)
    stored = config.get("torch_dtype", config.get("dtype"))
    if stored in claimed:
        return str(stored)
    return "float32" if "float32" in claimed else claimed[0]


def rules(function: str) -> list[str]:
    """The rules of a function of the vocabulary, in words."""
    if function not in VOCABULARY:
        return []
    found = ((f"R{number}", rule_text(function, f"R{number}")) for number in range(1, MOST_RULES))
    return [f"{rule}  {text}" for rule, text in found if text]


def tap_suspects(
    checkpoint: Path, tokens: Array, expected: Expected, comparison: Comparison, value: Array
) -> tuple[Suspect, ...]:
    """The faulty models that have the candidate's value at the first different tap.

    To blame is who made it, or a tap before it that the candidate does not show.
    """
    difference = comparison.difference
    assert difference is not None
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
    everywhere = np.ones(expected.truths[-1].shape[:2], bool)
    shaped = as_choice(difference.function, np.asarray(value)).reshape(truth.shape)
    answers = [(ids, (at_tokens(answer, everywhere),)) for ids, answer in found if answer.shape == truth.shape]
    return suspects((at_tokens(shaped, everywhere),), answers, (expected.expectation(index, everywhere),), expected.dtype)
