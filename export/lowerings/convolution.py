"""The short causal convolution in standard operators; `refimpl.layers.convolution` says what it computes.

From opset 27 on there is an operator for it, in float32. Neither form knows of padding, which is moved behind the real tokens.
"""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value

OPERATOR_OPSET = 27
END = np.iinfo(np.int64).max


def causal_conv1d(
    f: Body, x: Value, weight: Value, bias: Value | None = None, state: Value | None = None, order: Value | None = None
) -> tuple[Value, Value]:
    wide, taps = f.widen(x), f.widen(weight)
    bias = None if bias is None else f.widen(bias)
    past = _no_inputs(f, wide, taps) if state is None else f.widen(state)
    if order is None:
        y, last = _convolved(f, wide, taps, bias, past)
    else:
        y, last = _passing_over(f, wide, taps, bias, past, order)
    return f.known(f.cast(y, x.dtype), x.shape), f.known(f.cast(last, x.dtype), past.shape)


def _no_inputs(f: Body, x: Value, taps: Value) -> Value:
    """The state [B, D, W-1] before the first token."""
    channels, before = x.size(2), taps.size(1) - 1
    nothing = f.Expand(f.constant(np.asarray(0, x.dtype)), f.Concat(f.Shape(x, end=1), [channels, before], axis=0))
    return f.known(nothing, [x.shape[0], channels, before])


def _convolved(f: Body, x: Value, taps: Value, bias: Value | None, past: Value) -> tuple[Value, Value]:
    """y and the state after all of x, where nothing is padding."""
    if f.opset >= OPERATOR_OPSET and x.dtype == np.float32:
        turned, kernel = f.Transpose(x, perm=[0, 2, 1]), f.Unsqueeze(taps, [1])
        y, last = f.CausalConvWithState(turned, kernel, bias, past, outputs=2)
        return f.Transpose(y, perm=[0, 2, 1]), last
    seen, length = _seen(f, x, past), f.Shape(x, start=1, end=2)
    turned, y = f.Transpose(taps, perm=[1, 0]), None
    for tap in range(taps.size(1)):
        product = f.Mul(f.Slice(seen, [tap], f.Add(length, tap), [1]), f.Slice(turned, [tap], [tap + 1], [0]))
        y = product if y is None else f.Add(y, product)
    last = f.Transpose(f.Slice(seen, length, [END], [1]), perm=[0, 2, 1])
    return y if bias is None else f.Add(y, bias), last


def _passing_over(f: Body, x: Value, taps: Value, bias: Value | None, past: Value, order: Value) -> tuple[Value, Value]:
    """The same with padding anywhere: the real tokens come first, and their results go back to their places."""
    real = f.GreaterOrEqual(order, 0)
    length, count = f.Shape(x, start=1, end=2), f.cast(real, np.dtype(np.int64))
    column = f.Range(np.asarray(0), f.Squeeze(length, [0]), np.asarray(1))
    late = f.Where(real, column, f.Add(column, length))
    tokens_first = f.TopK(late, length, axis=1, largest=0, outputs=2)[1]
    moved = f.known(_rows(f, x, tokens_first), x.shape)
    y, _ = _convolved(f, moved, taps, bias, past)
    rank = f.Max(f.Sub(f.CumSum(count, np.asarray(1)), 1), 0)
    y = f.Where(f.Unsqueeze(real, [2]), _rows(f, y, rank), f.constant(np.asarray(0, x.dtype)))
    held = f.Add(f.ReduceSum(count, [1]), f.constant(np.arange(taps.size(1) - 1)))
    return y, f.Transpose(_rows(f, _seen(f, moved, past), held), perm=[0, 2, 1])


def _seen(f: Body, x: Value, past: Value) -> Value:
    """[B, W - 1 + T, D]."""
    seen: Value = f.Concat(f.Transpose(past, perm=[0, 2, 1]), x, axis=1)
    return seen


def _rows(f: Body, x: Value, index: Value) -> Value:
    """Of each x [T, D] the rows that its `index` names."""
    rows: Value = f.GatherND(x, f.Unsqueeze(index, [2]), batch_dims=1)
    return rows
