"""Models: a backend loads a checkpoint that the suite writes, and answers with logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance.calls import Misbehaved, Unsupported, attempt, combining, guarded
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.judge import Expectation, expect, failure, judge_one
from conformance.memory import without_memory
from conformance.readings import Exact
from conformance.results import check_array
from conformance.tiny import Specification, TinyModel
from conformance.tiny_models import MODELS
from conformance.verdict import Judgement, Suspect
from refimpl.numerics import FORMATS, Array

if TYPE_CHECKING:
    from conformance.backend import Backend

Engine = Callable[..., Any]
PAST = 8  # tokens before the first cut
PADDING = 5


class SteppedEngine(ABC):
    """An engine that is told of all its steps at once, because nothing of it lives from one call to the next."""

    @abstractmethod
    def __call__(self, tokens: Array, *, attention_mask: Array | None = None) -> Array:
        """Logits [B, T, V] of tokens [B, T]."""

    @abstractmethod
    def in_steps(self, tokens: Array, lengths: Sequence[int]) -> Array:
        """The same, of tokens that come in pieces of these lengths, with a cache between them."""


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

    return workspace.engine(checkpoint_name(tiny, dtype), make)


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

    @property
    def whole_model(self) -> bool:
        return True

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        if not backend.loads_models:
            return NOT_COVERED
        tiny = MODELS[self.index]

        def compare() -> Judgement:
            engine = engine_of(tiny, self.dtype, backend, workspace)
            with combining("the phase"):
                logits = PHASES[self.phase](engine, tiny.tokens())
            expected = self.expected()

            def judged(outputs: tuple[Array, ...]) -> Judgement:
                axes = "BTV" if outputs[0].ndim == 3 else "NV"
                judgement = judge_one(outputs[0], expected, self.dtype, axes=axes, wider=True)
                if self.id not in workspace.diagnosed or judgement.kind != "numeric":
                    return judgement
                return replace(judgement, suspects=self._suspects(workspace, outputs[0], expected))

            def ask_again(tokens: Array) -> tuple[Array, ...]:
                return (prefill(engine, tokens),)

            if self.phase != "prefill" or isinstance(engine, SteppedEngine):
                return judged((logits,))
            tokens = tiny.tokens()
            return without_memory((logits,), judged, lambda: ask_again(tokens), lambda: ask_again(tokens[:, ::-1]))

        return attempt(compare)

    def expected(self) -> Expectation:
        """What the model must answer in this phase."""
        return expectation(self.index, self.dtype, padding=self.phase == "padded")

    def _suspects(self, workspace: Workspace, logits: Array, expected: Expectation) -> tuple[Suspect, ...]:
        """The known bugs with which the model answers so in this phase."""
        from conformance.diagnosis import model_suspects  # mutants are made of cases

        tiny = MODELS[self.index]

        def ask(engine: Engine) -> Array:
            return PHASES[self.phase](engine, tiny.tokens())

        directory = workspace.directory / checkpoint_name(tiny, self.dtype)
        return model_suspects(directory, ask, logits, expected, self.dtype)


def checkpoint_name(tiny: TinyModel, dtype: str) -> str:
    """The directory of a small model within a workspace."""
    return f"{tiny.architecture}-{tiny.variant}-{TOKENS[dtype]}"


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
    if isinstance(engine, SteppedEngine):
        return ask(lambda whole: engine.in_steps(whole, lengths), tokens)[0]
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
