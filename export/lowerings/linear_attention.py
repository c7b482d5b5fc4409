"""Linear attention in standard operators; `refimpl.layers.linear_attention` says what it computes.

A few tokens go one after the other, more of them in chunks. From opset 27 on there is an operator for it, in float32.
"""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value
from export.lowerings.chunked import Attended, in_chunks

OPERATOR_OPSET = 27
FEW_TOKENS = 3  # measured: four are as fast in a chunk, which is the same work for one to all of its tokens


def linear_attention(
    f: Body, q: Value, k: Value, v: Value, state: Value | None = None, order: Value | None = None, *, scale: float
) -> tuple[Value, Value]:
    return attended(f, "linear", q, k, v, None, None, state, order, scale)


def gated_linear_attention(
    f: Body, q: Value, k: Value, v: Value, g: Value, state: Value | None = None, order: Value | None = None, *, scale: float
) -> tuple[Value, Value]:
    return attended(f, "gated", q, k, v, g, None, state, order, scale)


def delta_rule(
    f: Body, q: Value, k: Value, v: Value, beta: Value, state: Value | None = None, order: Value | None = None, *, scale: float
) -> tuple[Value, Value]:
    return attended(f, "delta", q, k, v, None, beta, state, order, scale)


def gated_delta_rule(
    f: Body,
    q: Value,
    k: Value,
    v: Value,
    g: Value,
    beta: Value,
    state: Value | None = None,
    order: Value | None = None,
    *,
    scale: float,
) -> tuple[Value, Value]:
    return attended(f, "gated_delta", q, k, v, g, beta, state, order, scale)


def softplus_decay(f: Body, a: Value, a_log: Value, dt_bias: Value) -> Value:
    a, a_log, dt_bias = f.widen(a), f.widen(a_log), f.widen(dt_bias)
    widths = [a.size(axis) for axis in range(2, len(a.shape))]
    x = f.Add(a, f.Reshape(dt_bias, widths))
    # ONNX defines Softplus as ln(e^x + 1): taken at its word it is infinite for a large x, and 0 for a small one.
    softplus = f.Add(f.Max(x, 0.0), _log_one_plus(f, f.Exp(f.Neg(f.Abs(x)))))
    rate = f.Exp(a_log) if len(widths) == 1 else f.Unsqueeze(f.Exp(a_log), [1])
    return f.Neg(f.Mul(rate, softplus))


def _log_one_plus(f: Body, x: Value) -> Value:
    """ln(1 + x) of small x as well: what the sum loses is the same share of its logarithm as of the sum less 1."""
    above = f.Add(x, 1.0)
    lost = f.Div(x, f.Sub(above, 1.0))
    return f.Where(f.Equal(above, 1.0), x, f.Mul(f.Log(above), lost))


def attended(
    f: Body,
    rule: str,
    q: Value,
    k: Value,
    v: Value,
    g: Value | None,
    beta: Value | None,
    state: Value | None,
    order: Value | None,
    scale: float,
) -> tuple[Value, Value]:
    """The result [B, T, H, J] in the format of v and the state after, of any of the four rules."""
    real = None if order is None else f.Unsqueeze(f.GreaterOrEqual(order, 0), [2, 3])
    call = _prepared(f, q, k, v, g, beta, state, real)
    if f.opset >= OPERATOR_OPSET and call.q.dtype == np.float32 and np.float32(scale) != 0:
        y, last = _operator(f, rule, call, scale)
    else:
        y, last = _standard(f, call, scale)
    if real is not None:
        y = f.Where(real, y, f.constant(np.asarray(0, y.dtype)))
    return f.known(f.cast(y, v.dtype), v.shape), f.known(last, call.state.shape)


def _prepared(
    f: Body,
    q: Value,
    k: Value,
    v: Value,
    g: Value | None,
    beta: Value | None,
    state: Value | None,
    real: Value | None,
) -> Attended:
    heads, keys, values = v.size(2), k.size(3), v.size(3)
    q = f.widen(q)

    def written(x: Value) -> Value:
        wide = f.widen(x)
        return wide if real is None else f.Where(real, wide, f.constant(np.asarray(0, wide.dtype)))

    if g is not None and len(g.shape) == 3:
        g = f.Unsqueeze(g, [3])
    if state is None:
        rows = f.Concat(f.Shape(q, end=1), [heads, keys, values], axis=0)
        zeros = f.Expand(f.constant(np.asarray(0, q.dtype)), rows)
        state = f.known(zeros, [q.shape[0], heads, keys, values])
    return Attended(
        q=_for_every_head(f, q, heads),
        k=_for_every_head(f, written(k), heads),
        v=written(v),
        g=None if g is None else written(g),
        beta=None if beta is None else written(f.Unsqueeze(beta, [3])),
        state=f.widen(state),
    )


def _for_every_head(f: Body, x: Value, heads: int) -> Value:
    """[B, T, G, K] as [B, T, H, K]: heads of a group are neighbours."""
    groups, width = x.size(2), x.size(3)
    if groups == heads:
        return x
    repeated = f.Expand(f.Unsqueeze(x, [3]), [1, 1, 1, heads // groups, 1])
    return f.known(f.Reshape(repeated, [0, 0, heads, width]), [*x.shape[:2], heads, width])


def _operator(f: Body, rule: str, call: Attended, scale: float) -> tuple[Value, Value]:
    """ONNX's own operator; a scale of 0 would ask it for its default."""
    heads = call.v.size(2)
    packed = [None if x is None else f.Reshape(x, [0, 0, -1]) for x in (call.q, call.k, call.v, call.g, call.beta)]
    y, last = f.LinearAttention(
        *packed[:3],
        call.state,
        *packed[3:],
        update_rule=rule,
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=float(scale),
        outputs=2,
    )
    return f.Reshape(y, [0, 0, heads, call.v.size(3)]), last


def _standard(f: Body, call: Attended, scale: float) -> tuple[Value, Value]:
    length = f.Shape(call.q, start=1, end=2)
    few = f.Squeeze(f.LessOrEqual(length, FEW_TOKENS), [0])
    y, last = f.branch(few, lambda inner: _one_by_one(inner, call), lambda inner: in_chunks(inner, call))
    return f.Mul(y, scale), last


def _one_by_one(f: Body, call: Attended) -> tuple[Value, Value]:
    tokens = [f.Transpose(x, perm=[1, 0, 2, 3]) for x in call.sequences()]
    y, last = f.scan(call.state, tokens, lambda inner, held, entries: _step(inner, held, entries, call))
    return f.Transpose(y, perm=[1, 0, 2, 3]), last


def _step(f: Body, held: Value, entries: list[Value], call: Attended) -> tuple[Value, Value]:
    """One token: q and k [B, H, K], v [B, H, J], g [B, H, K or 1], beta [B, H, 1]."""
    q, k, written, *rest = entries
    if call.g is not None:
        held = f.Mul(held, f.Unsqueeze(f.Exp(rest.pop(0)), [3]))
    if call.beta is not None:
        written = f.Mul(rest.pop(0), f.Sub(written, _read(f, held, k)))
    held = f.Add(held, f.MatMul(f.Unsqueeze(k, [3]), f.Unsqueeze(written, [2])))
    return _read(f, held, q), held


def _read(f: Body, held: Value, key: Value) -> Value:
    """What the state holds for a key: Sᵀ k."""
    return f.Squeeze(f.MatMul(f.Unsqueeze(key, [2]), held), [2])
