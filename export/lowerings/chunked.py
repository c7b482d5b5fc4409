"""Linear attention in chunks, in standard operators; `refimpl.layers.chunked` says what a chunk computes.

A chunk is halved again and again. What one token hands to another crosses the border between the halves of one block. With a
decay a channel the pair is a product of what is left of the key at the border and of what the query sees there: one product of
matrices a level, of factors that never grow, where all pairs with all channels would be a tensor of C·C·K decays. The
corrections are solved along the same halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph import Body, Value
from refimpl.numerics import Array

CHUNK = 16  # measured with heads of 128: shorter ones read the state too often, in longer ones the pairs cost too much
LEVELS = CHUNK.bit_length() - 1
GONE = -1e4  # e to it is 0 in any format


@dataclass(frozen=True)
class Attended:
    """The arrays of a call in the format it computes in, heads of keys repeated; what is written is 0 for padding.

    q and k [B, T, H, K], v [B, T, H, J], g [B, T, H, K or 1], beta [B, T, H, 1], state [B, H, K, J].
    """

    q: Value
    k: Value
    v: Value
    g: Value | None
    beta: Value | None
    state: Value

    def sequences(self) -> list[Value]:
        """What there is of q, k, v, g and beta."""
        return [x for x in (self.q, self.k, self.v, self.g, self.beta) if x is not None]


@dataclass(frozen=True)
class Decays:
    """e to sums of g within a chunk: from its start to a token, from a token to its end, over all of it, and of pairs.

    from_start and to_end [B, H, C, K or 1], whole [B, H, K or 1, 1]. A head: pairs [B, H, C, C], 0 above the diagonal. A
    channel: borders [B, H, L, C, K], between a token and the border in the middle of its block, level by level.
    """

    from_start: Value
    to_end: Value
    whole: Value
    pairs: Value | None = None
    borders: Value | None = None


def in_chunks(f: Body, call: Attended) -> tuple[Value, Value]:
    """y [B, T, H, J], not scaled, and the state after; the last chunk is filled with padding."""
    heads = call.v.size(2)
    length = f.Shape(call.q, start=1, end=2)
    pads = f.Concat([0, 0, 0, 0, 0], f.Mod(f.Neg(length), CHUNK), [0, 0], axis=0)

    def chunks(x: Value) -> Value:
        parts = f.Reshape(f.Pad(x, pads), [0, -1, CHUNK, heads, x.size(3)])
        return f.known(f.Transpose(parts, perm=[1, 0, 3, 2, 4]), [None, x.shape[0], heads, CHUNK, x.size(3)])

    def step(inner: Body, held: Value, entries: list[Value]) -> tuple[Value, Value]:
        q, k, v, *rest = entries
        decays = None if call.g is None else _decays(inner, rest.pop(0))
        return _chunk(inner, held, q, k, v, decays, rest.pop(0) if rest else None)

    y, last = f.scan(call.state, list(map(chunks, call.sequences())), step)
    whole = f.Reshape(f.Transpose(y, perm=[1, 0, 3, 2, 4]), [0, -1, heads, call.v.size(3)])
    return f.Slice(whole, [0], length, [1]), last


def _chunk(
    f: Body, held: Value, q: Value, k: Value, written: Value, decays: Decays | None, beta: Value | None
) -> tuple[Value, Value]:
    """One chunk, heads first, beta [B, H, C, 1]: the result and the state after."""
    q_from, k_from, k_to, kept = q, k, k, held
    if decays is not None:
        q_from, k_from = (f.Mul(x, decays.from_start) for x in (q, k))
        k_to, kept = f.Mul(k, decays.to_end), f.Mul(held, decays.whole)
    if beta is not None:
        written = f.Mul(beta, f.Sub(written, f.MatMul(k_from, held)))
        written = f.MatMul(_inverse(f, [f.Mul(beta, corner) for corner in _corners(f, k, k, decays)]), written)
    y = f.Add(f.MatMul(q_from, held), f.MatMul(_pairs(f, q, k, decays), written))
    return y, f.Add(kept, f.MatMul(_turned(f, k_to), written))


def _decays(f: Body, g: Value) -> Decays:
    if g.size(3) > 1:
        return _decays_a_channel(f, g)
    tokens = np.asarray(2)
    from_start = f.Exp(f.CumSum(g, tokens))
    written_before = f.Where(f.constant(np.tri(CHUNK, k=-1, dtype=bool)), g, f.constant(np.asarray(0, g.dtype)))
    return Decays(
        from_start=from_start,
        to_end=f.Exp(f.CumSum(g, tokens, exclusive=1, reverse=1)),
        whole=f.Slice(from_start, [CHUNK - 1], [CHUNK], [2]),
        pairs=f.Mul(f.Exp(f.CumSum(written_before, tokens)), f.constant(np.tri(CHUNK, dtype=g.dtype))),
    )


def _decays_a_channel(f: Body, g: Value) -> Decays:
    # A product with 0 and 1 is a sum, unless there are infinities.
    sums = f.MatMul(f.constant(_summed(g.dtype)), f.Max(g, GONE))
    decays = f.Reshape(f.Exp(sums), [0, 0, LEVELS + 2, CHUNK, g.size(3)])
    from_start, to_end, borders = f.Split(decays, [1, 1, LEVELS], axis=2, outputs=3)
    from_start, to_end = f.Squeeze(from_start, [2]), f.Squeeze(to_end, [2])
    whole = f.Transpose(f.Slice(from_start, [CHUNK - 1], [CHUNK], [2]), perm=[0, 1, 3, 2])
    return Decays(from_start=from_start, to_end=to_end, whole=whole, borders=borders)


def _summed(dtype: np.dtype) -> Array:
    """Which tokens' decays are summed for each: 0 and 1 in [(2 + L)·C, C], in the order of `_decays_a_channel`."""
    token = np.arange(CHUNK)
    up_to, after = token <= token[:, None], token > token[:, None]
    sums = [up_to, after]
    for level in range(LEVELS):
        half = token >> level
        second = (half % 2 == 1)[:, None]
        sums.append((half[:, None] == half) & np.where(second, up_to, after))
    return np.concatenate(sums).astype(dtype)


def _corner_masks(dtype: np.dtype) -> Array:
    """[L, C, C]: the pairs of which the second is in the second half of a block of 2, 4, ... and the first in the first."""
    token = np.arange(CHUNK)
    half = token >> np.arange(LEVELS)[:, None]
    same_block = half[:, :, None] // 2 == half[:, None] // 2
    return (same_block & (half[:, :, None] > half[:, None])).astype(dtype)


def _pairs(f: Body, q: Value, k: Value, decays: Decays | None) -> Value:
    """q_iᵀ Γ_ij k_j for all pairs, [B, H, C, C]."""
    if decays is None:
        return f.Mul(f.MatMul(q, _turned(f, k)), f.constant(np.tri(CHUNK, dtype=q.dtype)))
    if decays.pairs is not None:
        return f.Mul(f.MatMul(q, _turned(f, k)), decays.pairs)
    own = f.Mul(f.ReduceSum(f.Mul(q, k), [3]), f.constant(np.eye(CHUNK, dtype=q.dtype)))
    return f.Add(own, f.ReduceSum(_border_products(f, q, k, decays), [2], keepdims=0))


def _corners(f: Body, q: Value, k: Value, decays: Decays | None) -> list[Value]:
    """The same, level by level: those pairs alone that meet at a border of the level."""
    if decays is not None and decays.borders is not None:
        parts = f.Split(_border_products(f, q, k, decays), [1] * LEVELS, axis=2, outputs=LEVELS)
        return [f.Squeeze(part, [2]) for part in parts]
    pairs = _pairs(f, q, k, decays)
    return [f.Mul(pairs, f.constant(mask)) for mask in _corner_masks(q.dtype)]


def _border_products(f: Body, q: Value, k: Value, decays: Decays) -> Value:
    """[B, H, L, C, C]."""
    q, k = (f.Mul(f.Unsqueeze(x, [2]), decays.borders) for x in (q, k))
    return f.Mul(f.MatMul(q, f.Transpose(k, perm=[0, 1, 2, 4, 3])), f.constant(_corner_masks(q.dtype)))


def _inverse(f: Body, corners: list[Value]) -> Value:
    """(I + A)⁻¹, where A is the sum of the corners: that of blocks of 2, then of 4, ..."""
    inverse = f.Sub(f.constant(np.eye(CHUNK, dtype=corners[0].dtype)), corners[0])
    for corner in corners[1:]:
        inverse = f.Sub(inverse, f.MatMul(f.MatMul(inverse, corner), inverse))
    return inverse


def _turned(f: Body, x: Value) -> Value:
    turned: Value = f.Transpose(x, perm=[0, 1, 3, 2])
    return turned
