"""Masks in standard operators; `refimpl.layers.mask` says what each computes."""

from __future__ import annotations

from export.graph import Body, Value


def padding_mask(f: Body, q_order: Value, k_order: Value) -> Value:
    q, k = _broadcast(f, q_order, k_order)
    return f.And(f.GreaterOrEqual(k, 0), f.GreaterOrEqual(q, 0))


def causal_mask(f: Body, q_order: Value, k_order: Value) -> Value:
    q, k = _broadcast(f, q_order, k_order)
    return f.LessOrEqual(k, q)


def sliding_window_mask(f: Body, q_order: Value, k_order: Value, *, window: int) -> Value:
    q, k = _broadcast(f, q_order, k_order)
    return f.And(f.LessOrEqual(k, q), f.Greater(k, f.Sub(q, window)))


def chunked_mask(f: Body, q_order: Value, k_order: Value, *, chunk: int) -> Value:
    q, k = _broadcast(f, q_order, k_order)
    # The first place of the chunk: Mod takes the sign of the divisor, where an integer Div would round -1 / chunk up to 0.
    q_start, k_start = (f.Sub(order, f.Mod(order, chunk)) for order in (q, k))
    return f.And(f.LessOrEqual(k, q), f.Equal(k_start, q_start))


def attention_mask(
    f: Body, q_order: Value, k_order: Value, *, causal: bool = True, window: int | None = None, chunk: int | None = None
) -> Value:
    if not causal and (window is not None or chunk is not None):
        raise ValueError("attention_mask: window and chunk are defined for causal attention, but causal is False")
    visible = padding_mask(f, q_order, k_order)
    if window is not None:
        visible = f.And(visible, sliding_window_mask(f, q_order, k_order, window=window))
    if chunk is not None:
        visible = f.And(visible, chunked_mask(f, q_order, k_order, chunk=chunk))
    if causal and window is None and chunk is None:  # the other two are causal themselves
        visible = f.And(visible, causal_mask(f, q_order, k_order))
    return visible


def _broadcast(f: Body, q_order: Value, k_order: Value) -> tuple[Value, Value]:
    """q_order [B, T] as [B, T, 1] and k_order [B, S] as [B, 1, S], in one dtype."""
    return f.Unsqueeze(q_order, [2]), f.cast(f.Unsqueeze(k_order, [1]), q_order.dtype)
