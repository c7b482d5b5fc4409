"""Strict JSON: one object, encoded as UTF-8, in which no key appears twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from refimpl.checkpoint.errors import CheckpointError


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object that `text` holds. CheckpointError, starting with `where`, when it holds anything else."""
    try:
        # Decoded here because json.loads would guess UTF-16 and UTF-32 from bytes.
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds a JSON {type(value).__name__} but needs an object")
    return value


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. CheckpointError when the file cannot be read or holds anything else."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    return parse_object(text, f"{file}: the file")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {name!r} appears {times} times")
    return values
