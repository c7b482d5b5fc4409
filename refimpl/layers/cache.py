"""The ring cache: the last `window` tokens of each row, each in the slot that its place says, in memory that does not grow.

A slot is the place of a token among the real ones of its row, modulo the window; padding takes none. So what a slot holds
follows from the number of real tokens alone, whatever the pieces in which they came.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_integers


def ring_order(order: Array, *, window: int) -> Array:
    """The place of the token that each slot of a ring holds, once it has seen all tokens of `order`.

    slot_s = the largest place p of the row with p mod W = s, or -1 where there is none

    Shapes: order int [B, S], the places of all tokens (`position.token_order`), window W in tokens;
      result int64 [B, min(S, W)].
    Rules:
      R1  a ring has min(S, W) slots: it grows with the text up to the window, padding counted, and never further.
      R2  the result goes into attention as k_order, where the order of storage changes nothing.
    Dtype: integers.
    Source: Beltagy et al., arXiv:2004.05150 (windows); Mistral 7B, arXiv:2310.06825, section 2 (rolling buffer).
    """
    check("ring_order", order=(order, "BS"))
    check_integers("ring_order", order=order)
    check_counts("ring_order", window=window)
    slots = np.arange(min(order.shape[1], window))
    last_B1 = np.max(order.astype(np.int64), axis=1, keepdims=True, initial=-1)
    place_BS = last_B1 - (last_B1 - slots) % window
    return np.where(place_BS >= 0, place_BS, -1)


def ring_append(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    """A ring with the new tokens written into their slots, over the tokens that left the window.

    ring'_(p mod W) = new_t        for each real token t whose place p is among the last W of its row

    Shapes: new [B, T, ...]; order int [B, S], the places of all tokens, the new ones last; ring [B, min(S - T, W), ...] or
      absent where S = T; result [B, min(S, W), ...].
    Rules:
      R1  attention over the ring and the new tokens, at the places of `ring_order` and their own, equals attention over all
          tokens under the same window (or chunk).
      R2  padding is not written.
      R3  a slot that nothing was written into is 0.
      R4  pieces of any lengths leave the same ring.
    Dtype: a copy, nothing is computed.
    Pitfalls: slots counted in columns, which padding shifts; a piece longer than the window written in the wrong order
      (ring-cache-chunked-prefill-corrupt); W + 1 tokens visible while the ring holds W (swa-mask-vs-rotating-cache-mismatch).
    Source: as `ring_order`.
    """
    check("ring_append", new=(new, "..."), order=(order, "BS"), ring=(ring, "...?"))
    check_integers("ring_append", order=order)
    check_counts("ring_append", window=window)
    batch, length = order.shape
    order = order.astype(np.int64)  # signed and wide, so that a difference of places cannot wrap around
    if new.ndim < 2 or new.shape[0] != batch or new.shape[1] > length:
        raise ValueError(f"ring_append: new has shape {new.shape} but needs [{batch}, T, ...] with T of at most {length}")
    past, entry = length - new.shape[1], new.shape[2:]
    held = np.zeros_like(new, shape=(batch, 0, *entry)) if ring is None else ring
    if held.shape != (batch, min(past, window), *entry):
        raise ValueError(
            f"ring_append: ring has shape {held.shape} but {past} earlier tokens need {(batch, min(past, window), *entry)}"
        )
    free = min(length, window) - held.shape[1]
    result = np.concatenate([held, np.zeros_like(new, shape=(batch, free, *entry))], axis=1)
    places = order[:, past:]
    last_B1 = np.max(order, axis=1, keepdims=True, initial=-1)
    rows, tokens = np.nonzero((places >= 0) & (places > last_B1 - window))
    result[rows, places[rows, tokens] % window] = new[rows, tokens]
    return result
