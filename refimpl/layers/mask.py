"""Which keys a query sees: masks from the places of tokens, true where the key is visible.

Places are integers that count the real tokens of a row (`position.token_order`). A negative place marks padding or an
empty cache slot. Because a mask is a function of places and not of columns, one definition holds for prefill, for pieces,
for one decoded token, for padding on either side and for a cache whose slots are in any order.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_flags, check_integers


def padding_mask(q_order: Array, k_order: Array) -> Array:
    """Real keys are visible to real queries.

    visible_ts = (k_s >= 0) and (q_t >= 0)

    Shapes: q_order int [B, T], k_order int [B, S]; result bool [B, T, S].
    Rules: R1  padding sees nothing and is seen by nothing.
    Dtype: places are integers, masks are bools; so in all functions here.
    """
    q_BT1, k_B1S = _broadcast("padding_mask", q_order, k_order)
    return (k_B1S >= 0) & (q_BT1 >= 0)


def causal_mask(q_order: Array, k_order: Array) -> Array:
    """A query sees itself and what came before.

    visible_ts = k_s <= q_t

    Shapes: as `padding_mask`.
    Rules: R1  with a cache the last query sees the last key (lower-right alignment), not the T-th.
    Pitfalls: upper-left alignment with a cache (causal-mask-top-left-with-cache, causal-mask-oracle-wrong-alignment).
    """
    q_BT1, k_B1S = _broadcast("causal_mask", q_order, k_order)
    return k_B1S <= q_BT1


def sliding_window_mask(q_order: Array, k_order: Array, *, window: int) -> Array:
    """A query sees the last `window` tokens, itself included.

    visible_ts = q_t - window < k_s <= q_t

    Shapes: as `padding_mask`; window in tokens.
    Rules:
      R1  exactly `window` keys are visible: the query's own and the window - 1 before it.
      R2  a window of at least the length changes nothing.
    Pitfalls: window + 1 keys (swa-window-plus-one-fa, swa-window-plus-one-bridge, swa-mask-vs-rotating-cache-mismatch).
    """
    check_counts("sliding_window_mask", window=window)
    q_BT1, k_B1S = _broadcast("sliding_window_mask", q_order, k_order)
    return (k_B1S <= q_BT1) & (k_B1S > q_BT1 - window)


def chunked_mask(q_order: Array, k_order: Array, *, chunk: int) -> Array:
    """A query sees the earlier tokens of its own chunk.

    visible_ts = k_s <= q_t and k_s // chunk = q_t // chunk

    Shapes: as `padding_mask`; chunk in tokens.
    Rules: R1  chunks count real tokens, so padding on the left does not move their borders.
    Pitfalls: chunks of columns, padding included (chunked-mask-left-padding); mixing a truncated cache with absolute
      columns (chunked-mask-cumulative-vs-truncated).
    """
    check_counts("chunked_mask", chunk=chunk)
    q_BT1, k_B1S = _broadcast("chunked_mask", q_order, k_order)
    return (k_B1S <= q_BT1) & (k_B1S // chunk == q_BT1 // chunk)


def attention_mask(
    q_order: Array, k_order: Array, *, causal: bool = True, window: int | None = None, chunk: int | None = None
) -> Array:
    """The conjunction of the masks that apply.

    Shapes: as `padding_mask`.
    Rules: R1  a window or a chunk implies causality: `causal` false with either is an error.
    """
    check_flags("attention_mask", causal=causal)
    if not causal and (window is not None or chunk is not None):
        raise ValueError("attention_mask: window and chunk are defined for causal attention, but causal is False")
    visible = padding_mask(q_order, k_order)
    if causal:
        visible = visible & causal_mask(q_order, k_order)
    if window is not None:
        visible = visible & sliding_window_mask(q_order, k_order, window=window)
    if chunk is not None:
        visible = visible & chunked_mask(q_order, k_order, chunk=chunk)
    return visible


def _broadcast(layer: str, q_order: Array, k_order: Array) -> tuple[Array, Array]:
    check(layer, q_order=(q_order, "BT"), k_order=(k_order, "BS"))
    check_integers(layer, q_order=q_order, k_order=k_order)
    # Signed, so that a difference of places cannot wrap around.
    return q_order[:, :, None].astype(np.int64), k_order[:, None, :].astype(np.int64)
