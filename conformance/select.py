"""Which cases run: by expression over their ids, by level, by dtype."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from conformance.case import LEVELS
from refimpl.numerics import FORMATS

Predicate = Callable[[str], bool]


def expression(text: str | None) -> Predicate:
    """A test of case ids: parts of them joined by `and`, `or`, `not` and parentheses, as pytest's -k; case does not matter.

    None selects all. ValueError, one sentence, when it cannot be read.
    """
    if text is None:
        return lambda case_id: True
    if not isinstance(text, str):
        raise ValueError(f"k is {text!r} but needs a string: parts of case ids joined by and, or, not, parentheses")
    tokens = re.findall(r"\(|\)|[^\s()]+", text)
    parser = _Parser(text, tokens)
    return parser.whole()


class _Parser:
    """One method a rule: whole = either; either = both (or both)*; both = one (and one)*; one = not one | ( either ) | part."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self._text, self._tokens = text, tokens

    def whole(self) -> Predicate:
        found = self._either()
        if self._tokens:
            raise self._error(f"unexpected {self._tokens[0]!r}")
        return found

    def _either(self) -> Predicate:
        first = self._both()
        while self._next("or"):
            first = _joined(any, first, self._both())
        return first

    def _both(self) -> Predicate:
        first = self._one()
        while self._next("and"):
            first = _joined(all, first, self._one())
        return first

    def _one(self) -> Predicate:
        if self._next("not"):
            inner = self._one()
            return lambda case_id: not inner(case_id)
        if self._next("("):
            inner = self._either()
            if not self._next(")"):
                raise self._error("a parenthesis is not closed")
            return inner
        if not self._tokens or self._tokens[0].lower() in ("and", "or", ")"):
            raise self._error(
                f"a part of a case id is missing {'at the end' if not self._tokens else f'before {self._tokens[0]!r}'}"
            )
        part = self._tokens.pop(0).lower()
        return lambda case_id: part in case_id.lower()

    def _next(self, word: str) -> bool:
        if self._tokens and self._tokens[0].lower() == word:
            self._tokens.pop(0)
            return True
        return False

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"expression {self._text!r} cannot be read: {reason} (parts of case ids, and, or, not, parentheses)")


def _joined(how: Callable[..., bool], first: Predicate, second: Predicate) -> Predicate:
    return lambda case_id: how((first(case_id), second(case_id)))


def levels(level: str | Sequence[str] | None) -> tuple[str, ...]:
    """The levels that `level` means: a name, several, or None for all. ValueError for an unknown one."""
    return LEVELS if level is None else _names("level", level, LEVELS, "")


def dtypes(dtype: str | Sequence[str] | None, default: Sequence[str]) -> tuple[str, ...]:
    """The dtypes that `dtype` means: a name, several, "all", or None for `default`. ValueError for an unknown one."""
    if dtype is None:
        return tuple(default)
    if isinstance(dtype, str) and dtype == "all":
        return tuple(FORMATS)
    return _names("dtype", dtype, tuple(FORMATS), ", or all")


def whole_number(name: str, number: object) -> int:
    """`number`, where it is an integer, 0 or more. ValueError where it is not."""
    if type(number) is not int or number < 0:
        raise ValueError(f"{name} is {number!r} but needs an integer, 0 or more")
    return number


def _names(what: str, given: str | Sequence[str], known: Sequence[str], more: str) -> tuple[str, ...]:
    wanted = tuple(given) if isinstance(given, (list, tuple, set, frozenset)) else (given,)
    for name in wanted or (given,):
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{what} is {name!r} but must be one of {', '.join(known)}{more}")
    return tuple(dict.fromkeys(wanted))
