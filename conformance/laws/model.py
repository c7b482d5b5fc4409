"""Laws of whole models, of what a backend's `load` returns, without an oracle for the logits.

Both sides are logits of the same tokens, so each has the noise of the model's own logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conformance.calls import Unsupported, attempt, combining
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.judge import Expectation
from conformance.laws.law import agree
from conformance.models import PADDING, PAST, Engine, ask, decode, engine_of, expectation, padded, pieces, prefill
from conformance.readings import wide_format
from conformance.tiny_models import MODELS
from conformance.verdict import Judgement
from refimpl.numerics import FORMATS, Array

if TYPE_CHECKING:
    from conformance.backend import Backend

Sides = Callable[[Engine, Array], tuple[Array, Array]]


def incremental(engine: Engine, tokens: Array) -> tuple[Array, Array]:
    return decode(engine, tokens), prefill(engine, tokens)


def in_pieces(engine: Engine, tokens: Array) -> tuple[Array, Array]:
    return pieces(engine, tokens), prefill(engine, tokens)


def left_padding(engine: Engine, tokens: Array) -> tuple[Array, Array]:
    alone = [prefill(engine, tokens[:1])[0], prefill(engine, tokens[1:, PADDING:])[0]]
    return padded(engine, tokens), np.concatenate(alone)


def right_padding(engine: Engine, tokens: Array) -> tuple[Array, Array]:
    """Prompts of unequal lengths, the shorter one padded behind, and then the same number of tokens more for both."""
    prompt = PAST + PADDING
    mask = np.ones_like(tokens)
    mask[1, PAST:prompt] = 0
    start = np.where(mask == 1, tokens, 0)[:, :prompt]
    first, cache = ask(engine, start, attention_mask=mask[:, :prompt])
    if cache is None:
        raise Unsupported("the loaded model returns no cache")
    then, _ = ask(engine, tokens[:, prompt:], cache, attention_mask=mask)
    alone = [prefill(engine, row[None, kept == 1])[0] for row, kept in zip(tokens, mask, strict=True)]
    return np.concatenate([first, then], axis=1)[mask == 1], np.concatenate(alone)


def batch_rows(engine: Engine, tokens: Array) -> tuple[Array, Array]:
    return np.concatenate([prefill(engine, tokens[:1]), prefill(engine, tokens[1:])]), prefill(engine, tokens)


def later_tokens(engine: Engine, tokens: Array) -> tuple[Array, Array]:
    changed = tokens.copy()
    changed[:, 9:] = (changed[:, 9:] + 17) % tokens.max()
    return prefill(engine, changed)[:, :9], prefill(engine, tokens)[:, :9]


# Name -> sides, the phase, and the law in words.
LAWS: dict[str, tuple[Sides, str, str]] = {
    "incremental_is_full": (incremental, "decode", "one token at a time gives what all at once give"),
    "pieces_are_whole": (in_pieces, "pieces", "prefill in pieces gives what all at once give"),
    "left_padding": (left_padding, "padded", "padding on the left changes nothing"),
    "right_padding": (right_padding, "padded", "padding behind a prompt changes nothing that follows"),
    "batch_rows": (batch_rows, "prefill", "rows of a batch do not see each other"),
    "later_tokens": (later_tokens, "prefill", "later tokens never change earlier logits"),
}


@dataclass(frozen=True, kw_only=True)
class ModelLawCase(Case):
    """A law of one small model."""

    index: int
    law: str

    @property
    def rule(self) -> str:
        return LAWS[self.law][2]

    @property
    def whole_model(self) -> bool:
        return True

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        if not backend.loads_models:
            return NOT_COVERED
        tiny = MODELS[self.index]

        def compare() -> Judgement:
            engine = engine_of(tiny, self.dtype, backend, workspace)
            with combining("the law"):
                left, right = LAWS[self.law][0](engine, tiny.tokens())
            wide = wide_format(self.dtype)

            def of_both() -> list[Expectation]:
                return [expectation(self.index, self.dtype, padding=False)] * 2

            return agree(left.astype(wide), right.astype(wide), of_both)

        return attempt(compare)


def model_law_cases(dtype: str) -> list[Case]:
    """Every law of the first model of each architecture."""
    if dtype not in FORMATS:
        return []
    architectures = [tiny.architecture for tiny in MODELS]
    return [
        ModelLawCase(
            id=f"law/{name}_{law}-{LAWS[law][1]}-{TOKENS[dtype]}-{MODELS[index].size}",
            level="law",
            function=name,
            dtype=dtype,
            index=index,
            law=law,
        )
        for name in dict.fromkeys(architectures)
        for index in [architectures.index(name)]
        for law in LAWS
    ]
