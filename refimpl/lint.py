"""What a config.json says to this specification: which switches it sets, which keys mean nothing, what is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refimpl.config import Config
from refimpl.models import config_of, reader


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`kind` is one of: used (a switch that the file sets), default (a switch that it leaves to the architecture), ignored
    (changes no number), error (unknown, missing or wrong)."""

    kind: str
    key: str
    value: Any = None
    text: str = ""


def lint(values: Mapping[str, Any]) -> list[Finding]:
    """Every key of a configuration with its meaning here; errors last. Never raises for a bad configuration."""
    try:
        config = config_of(values)
    except ValueError as error:
        return [Finding(kind="error", key="config", text=str(error))]
    problem: list[Finding] = []
    try:
        reader(values)(config)
    except ValueError as error:
        problem = [Finding(kind="error", key="config", text=str(error))]
    return [*_findings(config), *problem]


def _findings(config: Config, prefix: str = "") -> list[Finding]:
    """What was read of a configuration and of the objects inside it."""
    config.unread()
    used = [
        Finding(kind="used", key=prefix + key, value=value) for key, value in config.taken.items() if key not in config.inner
    ]
    defaults = [Finding(kind="default", key=prefix + key, value=value) for key, value in config.absent.items()]
    ignored = [Finding(kind="ignored", key=prefix + key, value=config.values[key]) for key in dict.fromkeys(config.ignored)]
    inside = [finding for key, inner in config.inner.items() for finding in _findings(inner, f"{prefix}{key}.")]
    return [*used, *defaults, *ignored, *inside]
