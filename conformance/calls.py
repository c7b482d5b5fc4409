"""Calls into code that is not ours: whatever it raises, prints or sets, the run goes on and the verdict says so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np

from conformance.judge import failure
from conformance.shared import Shared
from conformance.verdict import Judgement, Kind
from refimpl.numerics import Array


class Unsupported(Exception):
    """The backend says that it does not do this."""


class Misbehaved(Exception):
    """A call went wrong in a way that is a verdict of its own."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.sentence)
        self.judgement = judgement


_STDERR = Shared(lambda: redirect_stdout(sys.stderr))


@contextmanager
def contained() -> Iterator[None]:
    """Prints go to standard error, as standard output may be the report; `np.seterr` lasts until the end."""
    with _STDERR, np.errstate():
        yield


def guarded(function: Callable[..., Any], values: tuple[Any, ...], options: dict[str, Any], names: list[str]) -> Any:
    """`function(*values, **options)`, where raising and writing into the inputs are noticed."""
    before = [bits(value) for value in (*values, *options.values())]
    try:
        with contained():
            result = function(*values, **options)
    except (KeyboardInterrupt, Unsupported, Misbehaved):  # the latter two come from doors that are ours
        raise
    except NotImplementedError as error:
        raise Unsupported(first_line(error) or "no reason given") from error
    except BaseException as error:
        raise Misbehaved(error_of(f"raised {described(error)}")) from error
    after = [bits(value) for value in (*values, *options.values())]
    for name, old, new in zip([*names[: len(values)], *options], before, after, strict=True):
        if old != new:
            raise Misbehaved(failure("mutation", f"wrote into its argument {name!r}"))
    return result


@contextmanager
def combining(what: str) -> Iterator[None]:
    """Steps on what the backend returned: where they fail, its shapes do not fit together."""
    try:
        yield
    except (ValueError, TypeError, IndexError, AttributeError, MemoryError) as error:
        raise Misbehaved(failure("shape", f"{what} cannot go on with the backend's values: {first_line(error)}")) from error


def attempt(judge: Callable[[], Judgement]) -> Judgement:
    """The judgement, or what the backend's refusal or failure amounts to."""
    try:
        return judge()
    except Unsupported as refusal:
        return Judgement(verdict="unsupported", sentence=str(refusal))
    except Misbehaved as failing:
        return failing.judgement


def error_of(sentence: str, kind: Kind = "") -> Judgement:
    """The verdict on a backend that raised, did not answer or is gone."""
    return Judgement(verdict="error", kind=kind, sentence=sentence)


def described(error: BaseException) -> str:
    """The type of an exception, and what it says."""
    said = first_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; empty where it cannot even say that."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        return ""
    return lines[0][:300].encode("utf-8", "replace").decode() if lines else ""


def bits(value: Any) -> bytes | None:
    return _array_bits(value) if isinstance(value, np.ndarray) else None


def _array_bits(array: Array) -> bytes:
    return repr((array.shape, array.dtype)).encode() + array.tobytes()
