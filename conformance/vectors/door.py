"""A backend that answers questions in files: what a program and a directory of answers have in common."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from conformance.backend import Backend, BackendError
from conformance.calls import Misbehaved, Unsupported
from conformance.judge import failure
from conformance.models import SteppedEngine
from conformance.results import check_result
from conformance.vectors.question import Question
from refimpl.layers import VOCABULARY
from refimpl.numerics import Array

LONGEST = 3600.0


@dataclass(frozen=True, kw_only=True)
class About:
    """What an implementation says of itself, as JSON (`runner --about`, or about.json beside answers)."""

    name: str = ""
    version: str = ""
    dtypes: tuple[str, ...] = ("float32",)
    layers: tuple[str, ...] = ()
    models: bool = False
    timeout_s: float = 30.0


def read_about(text: str, source: str) -> About:
    """BackendError, one sentence that starts with `source`, where the text is no such JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        raise BackendError(f"{source}: {_short(text)} is not JSON; it needs an object such as {_EXAMPLE}") from None
    if not isinstance(found, dict) or not found.keys() <= set(_FIELDS):
        raise BackendError(f"{source}: needs a JSON object with the keys {', '.join(_FIELDS)}, but is {_short(text)}")
    for key, value in found.items():
        if not _FIELDS[key](value):
            raise BackendError(f"{source}: {key} is {_short(json.dumps(value))} but needs {_NEEDS[key]}")
    for name in found.get("layers", ()):
        if name not in VOCABULARY:
            near = get_close_matches(name, VOCABULARY, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`refimpl list layers` names them"
            raise BackendError(f"{source}: {_short(repr(name))} is no layer; {hint}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return About(**values)


class FileBackend(Backend):
    """A backend of which every question goes to `answer`."""

    def __init__(self, about: About, *, name: str) -> None:
        source: dict[str, Any] = {layer: VOCABULARY[layer] for layer in about.layers}
        source |= {"name": about.name or name, "version": about.version, "dtypes": about.dtypes}
        if about.models:
            source["load"] = FileEngine
        super().__init__(source, name=name)

    @abstractmethod
    def answer(self, question: Question) -> Mapping[str, Array]:
        """The tensors of the answer by name. Raises Unsupported or Misbehaved, nothing else."""

    def call(self, function: str, *values: Any, **options: Any) -> Any:
        question = Question.of_layer(function, *values, **options)
        answer = self._named(question)
        result = answer[0] if len(answer) == 1 else tuple(answer)
        check_result(function, result)
        return result

    def load(self, directory: Path) -> FileEngine:
        return FileEngine(self, directory)

    def logits(self, question: Question) -> Array:
        """The one tensor of a model's answer."""
        return self._named(question)[0]

    def _named(self, question: Question) -> list[Array]:
        answer = self.answer(question)
        if set(answer) != set(question.names):
            found = f"the tensors {', '.join(sorted(answer))}" if answer else "no tensors"
            raise Misbehaved(failure("shape", f"answered with {_short(found)} but needs {', '.join(question.names)}"))
        return [answer[name] for name in question.names]


class FileEngine(SteppedEngine):
    """A checkpoint directory, asked through a `FileBackend`."""

    def __init__(self, backend: FileBackend, directory: Path) -> None:
        self._backend, self._directory = backend, directory

    def __call__(self, tokens: Array, *, attention_mask: Array | None = None) -> Array:
        return self._backend.logits(Question.of_model(self._directory, tokens, attention_mask=attention_mask))

    def in_steps(self, tokens: Array, lengths: Sequence[int]) -> Array:
        return self._backend.logits(Question.of_model(self._directory, tokens, steps=lengths))


def refused(reason: str) -> Unsupported:
    """What to raise for a question that an implementation says it does not answer."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return Unsupported(lines[-1][:300] if lines else "no reason given")


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= LONGEST


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


_FIELDS = {
    "name": lambda value: isinstance(value, str),
    "version": lambda value: isinstance(value, str),
    "dtypes": _strings,
    "layers": _strings,
    "models": lambda value: isinstance(value, bool),
    "timeout_s": _seconds,
}
_NEEDS = {
    "name": "a string",
    "version": "a string",
    "dtypes": "a list of strings",
    "layers": "a list of strings",
    "models": "true or false",
    "timeout_s": f"a number of seconds above 0, at most {LONGEST:g}",
}
_EXAMPLE = '{"name": "mine", "dtypes": ["float32"], "layers": ["rms_norm"]}'
