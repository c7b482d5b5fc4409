"""results.json: what a run found, for programs (docs/results.md). Written in one form and read back whole.

A record is a line, and records are in the order of their ids, so that two runs compare line by line. Nothing tells when or
where a run was.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from conformance.case import LEVELS
from conformance.report import Report
from conformance.verdict import VERDICTS, Judgement, Kind, Result, Suspect

SCHEMA, SCHEMA_VERSION = "refimpl results", 1
# An error so near to the end is a literal or an escape of which the rest is missing.
_LONGEST_WORD = 8


class ResultsError(ValueError):
    """A file that is no results file: one sentence."""


def as_json(report: Report) -> str:
    """Everything, one line a case."""
    whole = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "spec_version": report.spec_version,
        "backend": {"name": report.backend, "version": report.version, "reference": report.reference},
        "settings": report.settings,
        "min_cases": report.minimum,
        "exit_code": report.exit_code,
        "score": report.score,
        "counts": report.counts(),
    }
    head = [f"{_line(key)}: {_line(value)}," for key, value in whole.items()]
    records = ",\n".join(_line(_rounded(result.record())) for result in sorted(report.results, key=lambda one: one.id))
    return "\n".join(["{", *head, '"results": [', *([records] if records else []), "]", "}", ""])


def read_report(path: str | os.PathLike[str]) -> Report:
    """The report that `Report.to_json` wrote, its numbers to three digits. ResultsError when `path` holds none."""
    try:
        text = Path(path).read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        return _report(_parsed(text))
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        left = len(text.rstrip()) - error.pos
        if not text.strip() or (error.pos and (left < _LONGEST_WORD or error.msg.startswith("Unterminated string"))):
            raise ResultsError(f"ends too early, in line {error.lineno}: it was cut off, write it again") from None
        raise ResultsError(f"is no JSON ({error.msg} in line {error.lineno})") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or brackets without end
        raise ResultsError("is no results file: no JSON that can be read") from None
    if not isinstance(whole, dict) or whole.get("schema") != SCHEMA:
        raise ResultsError(f'is no results file of refimpl conform: it has no "schema": "{SCHEMA}"')
    version = _taken(whole, "schema_version", int)
    if version != SCHEMA_VERSION:
        newer = "; a newer refimpl reads it" if version > SCHEMA_VERSION else ""
        raise ResultsError(f"has schema version {version}, but this refimpl reads {SCHEMA_VERSION}{newer}")
    return whole


def _report(whole: dict[str, Any]) -> Report:
    backend = _taken(whole, "backend", dict)
    records = _taken(whole, "results", list)
    report = Report(
        backend=_taken(backend, "name", str),
        reference=_taken(backend, "reference", str),
        version=_taken(backend, "version", str),
        results=tuple(_result(record, number) for number, record in enumerate(records, start=1)),
        settings=_taken(whole, "settings", dict),
        minimum=None if whole.get("min_cases") is None else _taken(whole, "min_cases", int),
        spec_version=_taken(whole, "spec_version", str),
    )
    twice = [id for id, times in Counter(result.id for result in report.results).items() if times > 1]
    if twice:
        raise ResultsError(f"lists {twice[0]!r} twice")
    counts, listed = report.counts(), _taken(whole, "counts", dict)
    if counts != {name: listed.get(name) for name in counts}:
        raise ResultsError('its "counts" are not those of its results: it was changed, write it again')
    return report


def _result(record: Any, number: int) -> Result:
    try:
        if not isinstance(record, dict):
            raise ResultsError(f"is {record!r} but needs to be an object")
        known = {name: _taken(record, name, str) for name in ("id", "layer", "dtype", "rule")}
        level = _among(record, "level", LEVELS)
        return Result(**known, level=level, judgement=_judgement(record), expected=_optional(record, "expected", str, ""))
    except ResultsError as error:
        raise ResultsError(f"result {number} {error}") from None


def _judgement(record: dict[str, Any]) -> Judgement:
    words = {name: _optional(record, name, str, "") for name in ("sentence", "worst", "minimal")}
    names = ("share", "max_error", "max_budget", "rms_error", "rms_budget")
    numbers: dict[str, Any] = {name: _number(record, name) for name in names if name in record}
    return Judgement(
        verdict=_among(record, "verdict", VERDICTS),
        kind=_among({"kind": "", **record}, "kind", get_args(Kind)),
        **words,
        **numbers,
        suspects=tuple(map(_suspect, _optional(record, "suspects", list, []))),
        histogram=tuple(map(_bin, _optional(record, "histogram", list, []))),
    )


def _suspect(record: Any) -> Suspect:
    if not isinstance(record, dict):
        raise ResultsError(f"has the suspect {record!r} but needs an object")
    lists = {name: tuple(map(str, _taken(record, name, list))) for name in ("mutants", "links")}
    return Suspect(share=_number(record, "share"), sentence=_taken(record, "sentence", str), **lists)


def _bin(pair: Any) -> tuple[int, int]:
    if not (isinstance(pair, list) and [type(each) for each in pair] == [int, int] and abs(pair[0]) <= 64 and pair[1] > 0):
        raise ResultsError(f"has {pair!r} in its histogram but needs [exponent, count]")
    return pair[0], pair[1]


def _number(record: dict[str, Any], name: str) -> float:
    value = record.get(name)
    if value in ("inf", "nan"):
        return float(value)
    try:
        return float(_taken(record, name, (int, float)))
    except OverflowError:
        raise ResultsError(f"has {name} with more digits than a number may have") from None


def _among(record: dict[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    value = _taken(record, name, str)
    if value not in allowed:
        raise ResultsError(f"has {name} {value!r} but needs one of {', '.join(filter(None, allowed))}")
    return value


def _optional(record: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    return _taken(record, name, kind) if name in record else default


def _taken(record: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        state = f"has {name} {value!r}, which is of another kind than needed" if name in record else f"has no {name!r}"
        raise ResultsError(state)
    return value


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _rounded(value: Any) -> Any:
    """Numbers to three digits, so that reports of two machines can be compared; those that JSON has not as text."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if not isinstance(value, float):
        return value
    short = float(f"{value:.3g}")
    return short if abs(short) < float("inf") else str(value)
