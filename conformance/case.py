"""Cases: what is asked of a backend, and under which name.

    layer/variant-phase-dtype-size          attention/sink_window-decode-bf16-w128p17

layer     the function of the vocabulary; a block (attention_block, gated_mlp_block, decoder_layer); a model (smollm3,
          qwen3); or `law`, for the laws
variant   what the case is about, words joined by underscores; of a law its name
phase     prefill, pieces, decode, or padded; `any` where there is no sequence
dtype     f64, f32, bf16, f16; i64 for functions of integers
size      letters of the dimension key (`refimpl.shapes`) with their sizes, as many as are the point; w: window, c: chunk,
          p: places of keys outside the window

Drawn cases spell out all that was drawn, so that the id alone makes the case again: attention/drawn[T=3,S=7,seed=5]-f32.
A search among them is reported as one case, attention/drawn-any-f32. An id is never given to another case; a case is only
removed with a new version of the specification.

Deliberately not covered: errors (what a backend does with inputs that are none: tokens outside the vocabulary, wrong
shapes); speed and memory; dropout and gradients; inputs that are NaN or infinite, but for the -inf that hides an expert or
a key; positions or tokens wider than int64; frequencies and angles in formats narrower than float32, which no release has;
which of equal scores a router chooses; the digits of a sigmoid far below 0, which are below the last one of any other value
(a sigmoid made of tanh has none there). Of experts whose scores differ the order is asked for, the largest first, though no
model's output depends on it: a router that returns its choice unsorted sorts it in its adapter.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance.verdict import Judgement, Result
from refimpl import layers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from conformance.backend import Backend

LEVELS = ("layer", "block", "model", "law")
TOKENS = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16", "int64": "i64"}


class Workspace:
    """What cases of one run share: a directory for checkpoints, and the engines that a backend made of them.

    diagnosed: the ids of the cases whose wrong answers are compared with those of known bugs.
    """

    def __init__(self, directory: Path, *, diagnosed: Collection[str] = ()) -> None:
        self.directory = directory
        self.diagnosed = diagnosed
        self._engines: dict[str, Callable[..., Any]] = {}

    def engine(self, key: str, make: Callable[[Path], Callable[..., Any]]) -> Callable[..., Any]:
        """The engine called `key`, made in a directory of its own when it is first asked for."""
        if key not in self._engines:
            self._engines[key] = make(self.directory / key)
        return self._engines[key]


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One question to a backend.

    level: layer, block, model or law. function: the layer, block or model that a failure is blamed on.
    dtype: the tested format, "int64" for functions of integers. rules: those of the function's docstring that it exercises.
    """

    id: str
    level: str
    function: str
    dtype: str
    rules: tuple[str, ...] = ()

    @property
    def whole_model(self) -> bool:
        """Whether a checkpoint is loaded for it."""
        return False

    @abstractmethod
    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        """The verdict on `backend`, of which every function that the case needs may be missing."""

    def result(self, backend: Backend, workspace: Workspace) -> Result:
        """The result of asking `backend`, whatever the caller's `np.seterr` is."""
        with np.errstate(all="ignore"):
            judgement = self.judge(backend, workspace)
        return self.with_judgement(judgement)

    def with_judgement(self, judgement: Judgement) -> Result:
        """A verdict with the identity of the case."""
        return Result(id=self.id, level=self.level, layer=self.function, dtype=self.dtype, rule=self.rule, judgement=judgement)

    @property
    def rule(self) -> str:
        """The rules in words, e.g. "R1: the blend is linear in the number of turns, not in the wavelength"."""
        return "; ".join(f"{rule}: {rule_text(self.function, rule).removesuffix('.')}" for rule in self.rules)


def rule_text(function: str, rule: str) -> str:
    """What rule `rule` (R1, R2, ...) of a layer says, from its docstring; empty when it has none of that number."""
    document = getattr(layers, function).__doc__ or "" if function in layers.__all__ else ""
    found = re.search(rf"\b{rule}  (.*?)(?=\n\s+[RT]\d+  |\n    \w+:|\Z)", document, re.DOTALL)
    if found:
        return " ".join(found.group(1).split())
    for first, last, other in re.findall(r"R(\d+) to R(\d+) of `(\w+)`", document):
        if int(first) <= int(rule[1:]) <= int(last):
            return rule_text(other, rule)
    same = re.search(r"\brules\b[^`\n]*: as `(\w+)`", document)
    return rule_text(same.group(1), rule) if same else ""


NOT_COVERED = Judgement(verdict="not covered", sentence="the backend does not offer it")
