"""Models: a backend loads a checkpoint that the suite writes, and answers with logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance.calls import Misbehaved, Unsupported, attempt, combining, guarded
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.judge import Expectation, expect, failure, judge_one
from conformance.readings import Exact
from conformance.results import check_array
from conformance.tiny import Specification, TinyModel
from conformance.tiny_models import MODELS
from conformance.verdict import Judgement
from refimpl.numerics import FORMATS, Array

if TYPE_CHECKING:
    from conformance.backend import Backend

Engine = Callable[..., Any]
PAST = 8  # tokens before the first cut
PADDING = 5


def prefill(engine: Engine, tokens: Array) -> Array:
    """All tokens at once."""
    return ask(engine, tokens)[0]


def pieces(engine: Engine, tokens: Array) -> Array:
    """The cache grows by pieces of unequal length."""
    return _in_pieces(engine, tokens, [PAST, 1, 5, tokens.shape[1] - PAST - 6])


def decode(engine: Engine, tokens: Array) -> Array:
    """A prompt, then one token at a time."""
    return _in_pieces(engine, tokens, [PAST, *[1] * (tokens.shape[1] - PAST)])


def padded(engine: Engine, tokens: Array) -> Array:
    """The second row starts with padding; the logits of real tokens, one row after the other."""
    mask = np.ones_like(tokens)
    mask[1, :PADDING] = 0
    logits = ask(engine, np.where(mask == 1, tokens, 0), attention_mask=mask)[0]
    return logits[mask == 1]


PHASES: dict[str, Callable[[Engine, Array], Array]] = {
    "prefill": prefill,
    "pieces": pieces,
    "decode": decode,
    "padded": padded,
}


def ask(engine: Engine, tokens: Array, *cache: Any, **options: Any) -> tuple[Array, Any]:
    """Logits and the cache (None when the engine keeps none) of one call. Raises Unsupported or Misbehaved."""
    if options:
        try:
            signature(engine).bind(tokens, *cache, **options)
        except TypeError as error:
            raise Unsupported(f"the loaded model: {error}") from None
        except ValueError:  # compiled callables may have no signature
            pass
    result = guarded(engine, (tokens.copy(), *cache), options, ["tokens", "cache"])
    logits, new_cache = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    check_array(logits, "the loaded model")
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise Misbehaved(failure("shape", f"returned logits of shape {logits.shape} for tokens {tokens.shape}"))
    return logits, new_cache


def engine_of(tiny: TinyModel, dtype: str, backend: Backend, workspace: Workspace) -> Engine:
    """What the backend makes of the checkpoint, made once a run."""

    def make(directory: Path) -> Engine:
        tiny.write(directory, dtype)
        return backend.load(directory)

    return workspace.engine(f"{tiny.architecture}-{tiny.variant}-{TOKENS[dtype]}", make)


@cache
def expectation(index: int, dtype: str, *, padding: bool) -> Expectation:
    """What model `MODELS[index]` must answer, the same for all phases without padding."""
    tiny = MODELS[index]
    phase = padded if padding else prefill

    def evaluate(reading: Exact) -> tuple[Array, ...]:
        return (phase(Specification(tiny, reading, dtype), tiny.tokens()),)

    return expect(evaluate, dtype)[0]


@dataclass(frozen=True, kw_only=True)
class ModelCase(Case):
    """A small checkpoint and a way of feeding it."""

    index: int
    phase: str

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        if not backend.loads_models:
            return NOT_COVERED
        tiny = MODELS[self.index]

        def compare() -> Judgement:
            engine = engine_of(tiny, self.dtype, backend, workspace)
            with combining("the phase"):
                logits = PHASES[self.phase](engine, tiny.tokens())
            expected = expectation(self.index, self.dtype, padding=self.phase == "padded")
            return judge_one(logits, expected, self.dtype, axes="BTV" if logits.ndim == 3 else "NV", wider=True)

        return attempt(compare)


def model_cases(dtype: str) -> list[Case]:
    """Every model in every phase."""
    if dtype not in FORMATS:
        return []
    return [
        ModelCase(
            id=f"{tiny.architecture}/{tiny.variant}-{phase}-{TOKENS[dtype]}-{tiny.size}",
            level="model",
            function=tiny.architecture,
            dtype=dtype,
            index=index,
            phase=phase,
        )
        for index, tiny in enumerate(MODELS)
        for phase in PHASES
    ]


def _in_pieces(engine: Engine, tokens: Array, lengths: list[int]) -> Array:
    cache: tuple[Any, ...] = ()
    found: list[Array] = []
    start = 0
    for length in lengths:
        logits, new_cache = ask(engine, tokens[:, start : start + length], *cache)
        if new_cache is None:
            raise Unsupported("the loaded model returns no cache")
        if found and logits.shape[-1] != found[0].shape[-1]:
            raise Misbehaved(failure("shape", f"returned {found[0].shape[-1]} logits a token, later {logits.shape[-1]}"))
        found.append(logits)
        cache, start = (new_cache,), start + length
    return np.concatenate(found, axis=1)
