"""The selective state space of Mamba-2: linear attention that forgets, with its own names for everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.layers.chunked import gated_linear_attention_chunked
from refimpl.layers.linear_attention import gated_linear_attention
from refimpl.numerics import Array, float32_state
from refimpl.shapes import check, check_counts, check_floats, check_integers


@float32_state
def ssd(
    x: Array,
    dt: Array,
    a: Array,
    b: Array,
    c: Array,
    d: Array | None = None,
    state: Array | None = None,
    order: Array | None = None,
) -> tuple[Array, Array]:
    """State-space duality: a linear system a channel, whose step, input and output follow the token.

    S_t = e^(dt_t a) S_(t-1) + b_t (dt_t x_t)ᵀ          y_t = S_tᵀ c_t + d x_t

    Shapes: x [B, T, H, J], dt [B, T, H], a [H], b and c [B, T, G, K], d [H] or absent (0); state S [B, H, K, J] or absent
      (zeros); order int [B, T], the places of the tokens among the real ones of their row (-1: padding), or absent: none is
      padding. y as x, and S after the last token.
    Rules:
      R1  it is `gated_linear_attention` with q = c, k = b, v = dt x, g = dt a and scale 1, plus d x.
      R2  dt is positive and a negative: softplus and -exp are the caller's.
      R3  R1 to R4 of `linear_attention` hold: groups of heads, padding, pieces.
    Dtype: as `gated_linear_attention`; dt, a and d come in float32.
    Pitfalls: the state kept [J, K], as Mamba's kernels do; dt left out of the input; d as one number a channel.
    Source: Mamba-2, arXiv:2405.21060, section 6.
    """
    return _system("ssd", gated_linear_attention, x, dt, a, b, c, d, state, order)


@float32_state
def ssd_chunked(
    x: Array,
    dt: Array,
    a: Array,
    b: Array,
    c: Array,
    d: Array | None = None,
    state: Array | None = None,
    order: Array | None = None,
    *,
    chunk_size: int,
) -> tuple[Array, Array]:
    """`ssd`, `chunk_size` tokens at a time; the last chunk has what is left."""
    check_counts("ssd_chunked", chunk_size=chunk_size)
    attend = partial(gated_linear_attention_chunked, chunk_size=chunk_size)
    return _system("ssd_chunked", attend, x, dt, a, b, c, d, state, order)


def _system(
    layer: str,
    attend: Callable[..., tuple[Array, Array]],
    x: Array,
    dt: Array,
    a: Array,
    b: Array,
    c: Array,
    d: Array | None,
    state: Array | None,
    order: Array | None,
) -> tuple[Array, Array]:
    sizes = check(
        layer,
        x=(x, "BTHJ"),
        dt=(dt, "BTH"),
        a=(a, "H"),
        b=(b, "BTGK"),
        c=(c, "BTGK"),
        d=(d, "H?"),
        state=(state, "BHKJ?"),
        order=(order, "BT?"),
    )
    check_floats(layer, x=x, dt=dt, a=a, b=b, c=c, d=d, state=state)
    check_integers(layer, order=order)
    if sizes["H"] % sizes["G"]:
        raise ValueError(f"{layer}: x has {sizes['H']} heads, which the {sizes['G']} heads of b do not divide")
    y, state = attend(c, b, x * dt[..., None], dt * a, state, order, scale=1.0)
    if d is not None:
        real = True if order is None else (order >= 0)[..., None, None]
        y = y + np.where(real, d[:, None] * x, x.dtype.type(0))
    return y, state
