"""Weights in a few bits that a graph decodes where it uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from export.graph import Graph, Value

Change = Callable[[Graph, Value], Value]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A weight that the function `layer` of the vocabulary decodes, from these stored arrays and with these options.

    changes: what is done to the decoded weight afterwards.
    """

    name: str
    layer: str
    arrays: Mapping[str, Value]
    options: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
