"""The distribution of speculated text, by enumeration of everything that can be drawn, is exactly that of plain decoding."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import refimpl
from conformance.mutants.speculation import RULES
from refimpl import Model, ModelDrafter, Sampling, speculative
from refimpl.drafters import Draft, FunctionDrafter
from refimpl.speculative import speculate
from tests.tiny import qwen3, smollm3


class Enumerated(Sampling):
    """A row for every way in which M-valued dice can fall, one die each time a number is drawn."""

    def __init__(self, table: np.ndarray, sides: int, dice: int) -> None:
        super().__init__()
        self.table, self.sides = table, sides
        self.dice = np.array(list(itertools.product(range(sides), repeat=dice)))
        self.used = 0

    def distribution(self, logits: np.ndarray) -> np.ndarray:
        return self.table[np.argmax(logits, axis=-1) % len(self.table)]

    def uniforms(self, *shape: int) -> np.ndarray:
        count = shape[1] if len(shape) > 1 else 1
        values = self.dice[:, self.used : self.used + count]
        self.used += count
        return ((values + 0.5) / self.sides).reshape(shape)


# All probabilities, ratios p / q and residuals of rows of a table are multiples of 1 / sides, so that the middles of as many
# equal intervals stand for all uniform numbers.
QUARTERS = np.array([[2, 1, 1, 0], [1, 1, 0, 2], [0, 1, 1, 2], [1, 1, 1, 1]]) / 4
HALVES = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [2, 0, 0, 0], [1, 0, 0, 1]]) / 2
SETTINGS = {"quarters": (QUARTERS, 4, 3, 1, 5), "halves": (HALVES, 2, 4, 2, 10), "three drafts": (HALVES, 2, 5, 3, 12)}
TARGET = refimpl.init(smollm3(vocab_size=4, num_hidden_layers=2, no_rope_layers=[1, 0]), seed=2, dtype="float64")
DRAFT = refimpl.init(qwen3(vocab_size=4, num_hidden_layers=1), seed=5, dtype="float64")
START = [[2, 0]]


def texts_of(target: Model, table: np.ndarray, new: int) -> dict[tuple[int, ...], float]:
    """The exact distribution of plain decoding."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(new):
        longer = {}
        for text, chance in found.items():
            logits, _ = target(np.concatenate([START, [list(text)]], axis=1).astype(int))
            row = table[np.argmax(logits[0, -1]) % len(table)]
            longer |= {(*text, token): chance * p for token, p in enumerate(row) if p}
        found = longer
    return found


def speculated(drafter: Any, setting: str) -> dict[tuple[int, ...], float]:
    """The exact distribution of the text, every way in which the dice may fall being a row of one batch."""
    table, sides, new, count, dice = SETTINGS[setting]
    sampling = Enumerated(table, sides, dice)
    rows = len(sampling.dice)
    found = speculate(TARGET, np.repeat(START, rows, axis=0), new, drafter, sampling, draft_tokens=count)
    assert sampling.used <= dice
    texts, times = np.unique(found.new, axis=0, return_counts=True)
    return {tuple(text): times / rows for text, times in zip(texts.tolist(), times.tolist(), strict=True)}


def difference(found: dict, expected: dict) -> float:
    return max(abs(found.get(text, 0) - expected.get(text, 0)) for text in found.keys() | expected.keys())


class GreedyWithSoftDistributions:
    """spec-greedy-draft-with-soft-q."""

    def propose(self, news: Any, memory: Any, count: int, sampling: Sampling) -> tuple[Draft, Any]:
        draft, memory = ModelDrafter(DRAFT).propose(news, memory, count, sampling)
        greedily = np.argmax(draft.distributions, axis=-1)
        return replace(draft, tokens=greedily), memory


class TestDistribution:
    @pytest.mark.parametrize("setting", SETTINGS)
    @pytest.mark.parametrize("drafter", [ModelDrafter(DRAFT), ModelDrafter(TARGET)], ids=["another model", "itself"])
    def test_is_exactly_that_of_plain_decoding(self, setting: str, drafter: Any) -> None:
        table, _, new, *_ = SETTINGS[setting]
        expected = texts_of(TARGET, table, new)
        assert len(expected) > 10
        assert difference(speculated(drafter, setting), expected) < 1e-12

    def test_is_that_of_plain_decoding_whatever_a_function_drafts(self) -> None:
        """In halves alone: what is left of quarters without a certain draft may be in thirds."""
        drafter = FunctionDrafter(lambda row, count: (row[-1] + np.arange(count)) % 4, 4)
        assert difference(speculated(drafter, "three drafts"), texts_of(TARGET, HALVES, 5)) < 1e-12

    @pytest.mark.parametrize("label", [label for label in RULES if label != "residual-not-renormalised"])
    def test_a_wrong_rule_has_another(self, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """But the residual that is not renormalised: drawing a token renormalises."""
        monkeypatch.setattr(speculative, "speculative_accept", RULES[label])
        off = [
            difference(speculated(ModelDrafter(DRAFT), name), texts_of(TARGET, *SETTINGS[name][:3:2]))
            for name in ("quarters", "halves")
        ]
        assert max(off) > 1e-3

    def test_greedy_drafts_with_soft_distributions_have_another(self) -> None:
        expected = texts_of(TARGET, QUARTERS, 3)
        assert difference(speculated(GreedyWithSoftDistributions(), "quarters"), expected) > 1e-3
