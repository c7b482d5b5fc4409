"""The state space of Mamba-2 in standard operators; `refimpl.layers.state_space` says what it computes."""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value
from export.lowerings.linear_attention import gated_linear_attention


def ssd(
    f: Body,
    x: Value,
    dt: Value,
    a: Value,
    b: Value,
    c: Value,
    d: Value | None = None,
    state: Value | None = None,
    order: Value | None = None,
) -> tuple[Value, Value]:
    wide, dt = f.widen(x), f.widen(dt)
    driven = f.Mul(wide, f.Unsqueeze(dt, [3]))
    y, last = gated_linear_attention(f, f.widen(c), f.widen(b), driven, f.Mul(dt, f.widen(a)), state, order, scale=1.0)
    if d is not None:
        direct = f.Mul(wide, f.Unsqueeze(f.widen(d), [1]))
        if order is not None:
            real = f.Unsqueeze(f.GreaterOrEqual(order, 0), [2, 3])
            direct = f.Where(real, direct, f.constant(np.asarray(0, wide.dtype)))
        y = f.Add(y, direct)
    return f.cast(y, x.dtype), last
