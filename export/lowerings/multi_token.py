"""The input of a module for multi-token prediction in standard operators; `refimpl.layers.multi_token` says what it is."""

from __future__ import annotations

from export.graph import Body, Value
from export.lowerings.mlp import linear


def multi_token_input(f: Body, embedding: Value, hidden: Value, weight: Value) -> Value:
    return linear(f, f.Concat(embedding, hidden, axis=-1), weight)
