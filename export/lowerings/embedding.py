"""The two ends of a model in standard operators; `refimpl.layers.embedding` says what each computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.graph import Body, Value
from export.lowerings.attention import soft_cap
from export.lowerings.mlp import linear

OUT_OF_ANY_TABLE = np.iinfo(np.int32).max


def embedding(
    f: Body, tokens: Value, weight: Value, *, scale: float | None = None, dtype: np.dtype[Any] | None = None
) -> Value:
    # Gather counts negative indices from the end; here they must fail as any other token outside the table does.
    rows: Value = f.Gather(weight, f.Where(f.Less(tokens, 0), OUT_OF_ANY_TABLE, tokens))
    if dtype is not None:
        rows = f.cast(rows, dtype)
    return rows if scale is None else f.Mul(rows, scale)


def lm_head(f: Body, x: Value, weight: Value, *, scale: float | None = None, softcap: float | None = None) -> Value:
    logits = linear(f, x, weight)
    if scale is not None:
        logits = f.Mul(logits, scale)
    return logits if softcap is None else soft_cap(f, logits, cap=softcap)
