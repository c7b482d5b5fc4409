"""The published configurations: one JSON a release, with its configuration, its parameter counts and where they are from."""

from __future__ import annotations

import json
from difflib import get_close_matches
from importlib.resources import files
from typing import Any


def names() -> list[str]:
    """The releases that are described here, e.g. "Qwen/Qwen3-4B"."""
    stems = (file.name for file in files(__name__).iterdir() if file.name.endswith(".json"))
    return sorted(stem.removesuffix(".json").replace("--", "/") for stem in stems)


def release(name: str) -> dict[str, Any]:
    """What is known of a release: `config` as published, `parameters` (total, active), `source`, `notes`."""
    if name not in names():
        near = get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "`refimpl list releases` names them"
        raise ValueError(f"unknown release {name!r}; {hint}")
    text = (files(__name__) / f"{name.replace('/', '--')}.json").read_text(encoding="utf-8")
    return json.loads(text)
