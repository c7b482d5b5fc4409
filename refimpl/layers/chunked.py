"""Linear attention in chunks: the same four rules, a block of tokens at a time, as kernels compute a prefill.

Within a chunk every pair of tokens is a product of matrices, and only from chunk to chunk a state is handed over. The
corrections of the delta rule, each of which depends on those before it, are one triangular system a chunk.

Decays are summed between the two tokens of each pair. The difference of two sums from the start, as kernels have it, is off by
a rounding of those sums, which grow with the chunk: in float32 it loses the digits that strong decays need.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refimpl.layers.linear_attention import check_attended
from refimpl.numerics import Array, float32_state
from refimpl.shapes import check_counts

GONE = -1e4  # e to it is 0 in any format


@float32_state
def linear_attention_chunked(
    q: Array,
    k: Array,
    v: Array,
    state: Array | None = None,
    order: Array | None = None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Array, Array]:
    """`linear_attention`, `chunk_size` tokens at a time; the last chunk has what is left."""
    return _in_chunks("linear_attention_chunked", q, k, v, None, None, state, order, scale, chunk_size)


@float32_state
def gated_linear_attention_chunked(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    state: Array | None = None,
    order: Array | None = None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Array, Array]:
    """`gated_linear_attention`, `chunk_size` tokens at a time; the last chunk has what is left."""
    return _in_chunks("gated_linear_attention_chunked", q, k, v, g, None, state, order, scale, chunk_size)


@float32_state
def delta_rule_chunked(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    state: Array | None = None,
    order: Array | None = None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Array, Array]:
    """`delta_rule`, `chunk_size` tokens at a time; the last chunk has what is left."""
    return _in_chunks("delta_rule_chunked", q, k, v, None, beta, state, order, scale, chunk_size)


@float32_state
def gated_delta_rule_chunked(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    state: Array | None = None,
    order: Array | None = None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Array, Array]:
    """`gated_delta_rule`, `chunk_size` tokens at a time; the last chunk has what is left.

    With S the state before a chunk, i and j tokens of it, Γ_ij the decay of what j wrote until i reads it, Γ_i that of S:

    A_ij = β_i k_iᵀ Γ_ij k_j for j < i, else 0
    U    = (I + A)⁻¹ β (v - (Γ k) S)          what the tokens write, corrected by each other (the WY form)
    y_i  = scale · (S ᵀ Γ_i q_i + sum over j <= i of (q_iᵀ Γ_ij k_j) U_j)
    S'   = Γ_C S + sum over j of (Γ_Cj k_j) U_jᵀ

    Pitfalls: the pairs not decayed (gdn-chunk-mask-not-decayed), those above the diagonal not cut off before the exponential
      (gdn-chunk-upper-triangle-exp-positive), sums of decays carried on into the next chunk (gdn-chunk-cumsum-multi-chunk),
      the decay of pairs in what multiplies S (gdn-chunk-wy-both-decayed).
    Source: DeltaNet, arXiv:2406.06484, section 3; Gated DeltaNet, arXiv:2412.06464, section 3.3.
    """
    return _in_chunks("gated_delta_rule_chunked", q, k, v, g, beta, state, order, scale, chunk_size)


def unit_lower_inverse(A: Array) -> Array:
    """(I + A)⁻¹ of matrices [..., C, C] that are 0 on and above the diagonal.

    Blocks on the diagonal are inverted in sizes of 1, 2, 4, ...: two neighbours and what lies below the first make one of
    twice the size. The inverse is a sum of powers of A too, but those grow beyond all digits where keys repeat.
    """
    inverse = np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape)
    for half in _halves(A.shape[-1]):
        inverse = inverse - inverse @ np.where(_corner(half), A, A.dtype.type(0)) @ inverse
    return inverse


def _halves(C: int) -> Iterator[Array]:
    """For blocks of 2, 4, 8, ... tokens: in which half of a block, counted through, each token lies."""
    size = 1
    while size < C:
        yield np.arange(C) // size
        size *= 2


def _corner(half: Array) -> Array:
    """The pairs of tokens of which the first index is in the second half of a block and the other in the first."""
    corner: Array = (half[:, None] // 2 == half // 2) & (half[:, None] > half)
    return corner


def _in_chunks(
    layer: str,
    q: Array,
    k: Array,
    v: Array,
    g: Array | None,
    beta: Array | None,
    state: Array | None,
    order: Array | None,
    scale: float,
    chunk_size: int,
) -> tuple[Array, Array]:
    sizes = check_attended(layer, q, k, v, g, beta, state, order, scale)
    check_counts(layer, chunk_size=chunk_size)
    B, T, H, K, J = (sizes[letter] for letter in "BTHKJ")
    real_BHT1 = np.ones((B, 1, T, 1), bool) if order is None else (order >= 0)[:, None, :, None]
    q, k = (np.repeat(array, H // sizes["G"], axis=2) for array in (q * q.dtype.type(scale), k))
    decay = np.zeros((B, T, H, 1), q.dtype) if g is None else g.reshape(B, T, H, -1)
    # Padding neither decays nor writes.
    q, k, v, decay = (np.where(real_BHT1, array.swapaxes(1, 2), q.dtype.type(0)) for array in (q, k, v, decay))
    beta_BHT1 = None if beta is None else np.where(real_BHT1, beta.swapaxes(1, 2)[..., None], q.dtype.type(0))
    S_BHKJ = np.zeros((B, H, K, J), q.dtype) if state is None else state
    y_BHTJ = np.zeros((B, H, T, J), q.dtype)
    for start in range(0, T, chunk_size):
        here = np.s_[:, :, start : start + chunk_size]
        rates = None if beta_BHT1 is None else beta_BHT1[here]
        y_BHTJ[here], S_BHKJ = _chunk(q[here], k[here], v[here], decay[here], rates, S_BHKJ)
    return np.where(real_BHT1, y_BHTJ, q.dtype.type(0)).swapaxes(1, 2), S_BHKJ


def _chunk(q: Array, k: Array, v: Array, g: Array, beta: Array | None, S: Array) -> tuple[Array, Array]:
    """One chunk, heads first, g [B, H, C, K or 1] and beta [B, H, C, 1]: the result and the state after."""
    C = g.shape[2]
    from_start, to_end = np.exp(np.cumsum(g, axis=2)), np.exp(_sums(np.tri(C, k=-1).T, g))
    written = v
    if beta is not None:
        corrections = np.tril(beta * _products(k, k, g), -1)
        written = unit_lower_inverse(corrections) @ (beta * (v - (k * from_start) @ S))
    y = (q * from_start) @ S + _products(q, k, g) @ written
    return y, from_start[:, :, -1, :, None] * S + (k * to_end).swapaxes(2, 3) @ written


def _products(q: Array, k: Array, g: Array) -> Array:
    """q_iᵀ Γ_ij k_j for all pairs, [B, H, C, C], 0 where j comes after i."""
    return _products_a_head(q, k, g[..., 0]) if g.shape[-1] == 1 else _products_a_channel(q, k, g)


def _products_a_head(q: Array, k: Array, g: Array) -> Array:
    after = np.tri(g.shape[2], k=-1, dtype=bool)
    sums = np.cumsum(np.where(after, g[..., None], g.dtype.type(0)), axis=2)
    return np.tril((q @ k.swapaxes(2, 3)) * np.exp(sums))


def _products_a_channel(q: Array, k: Array, g: Array) -> Array:
    """A decay between two tokens is a product at the border between the halves of a block: of what is left there of what the
    one wrote, and of what is left of that when the other reads. No factor grows, and no C·C·K decays are needed.
    """
    C = g.shape[2]
    token = np.arange(C)
    pairs = np.eye(C, dtype=q.dtype) * np.sum(q * k, axis=-1)[..., None]
    for half in _halves(C):
        up_to_here = np.where((half % 2 == 1)[:, None], token <= token[:, None], token > token[:, None])
        at_border = np.exp(_sums((half[:, None] == half) & up_to_here, g))
        crossing = (q * at_border) @ (k * at_border).swapaxes(2, 3)
        pairs = np.where(_corner(half), crossing, pairs)
    return pairs


def _sums(which: Array, g: Array) -> Array:
    """For each token the sum of the g of those that `which` [C, C] marks in its row."""
    sums: Array = which.astype(g.dtype) @ np.maximum(g, g.dtype.type(GONE))  # 0 times an infinity were none
    return sums
