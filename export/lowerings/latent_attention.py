"""Latent attention in standard operators; `refimpl.layers.latent_attention` says what it computes.

The cache enters and leaves a graph as the latents [B, S, L] and the rotated keys [B, S, P]. Their two parts of a logit are
products of their own, so that no step copies the past to put them side by side.
"""

from __future__ import annotations

import numpy as np

from export.graph import Body, Value
from export.lowerings.attention import visible_softmax

END = np.iinfo(np.int64).max


def expand_latent(f: Body, latent: Value, k_rope: Value, weight: Value, *, heads: int, v_head_dim: int) -> tuple[Value, Value]:
    both_BSHX = f.Reshape(f.MatMul(latent, f.Transpose(weight, perm=[1, 0])), [0, 0, heads, -1])
    k_nope, v = f.Slice(both_BSHX, [0], [-v_head_dim], [3]), f.Slice(both_BSHX, [-v_head_dim], [END], [3])
    k = f.Concat(k_nope, f.Expand(f.Unsqueeze(k_rope, [2]), [1, 1, heads, 1]), axis=-1)
    front, rows = [*latent.shape[:2], heads], weight.shape[0]
    key_width = rows // heads - v_head_dim + k_rope.size(2) if isinstance(rows, int) else None
    return f.known(k, [*front, key_width]), f.known(v, [*front, v_head_dim])


def latent_attention(
    f: Body,
    q: Value,
    latent: Value,
    k_rope: Value,
    weight: Value,
    visible: Value,
    temperature: Value | None = None,
    bias: Value | None = None,
    *,
    scale: float,
) -> Value:
    """q [B, T, H, K], latent [B, S, L], k_rope [B, S, P], visible bool [B, T, S] (or with B = 1) -> [B, T, H, J]."""
    heads, rope, rank = q.size(2), k_rope.size(2), latent.size(2)
    nope, rows = q.size(3) - rope, weight.shape[0]
    q_nope, q_rope = f.Split(f.Transpose(q, perm=[0, 2, 1, 3]), [nope, rope], axis=-1, outputs=2)
    weight_HXL = f.Reshape(weight, [heads, -1, rank])
    q_latent = f.MatMul(q_nope, f.Slice(weight_HXL, [0], [nope], [1]))
    # All heads read the same latents: stacked along the query axis they are one matrix product.
    by_latent, by_rope = (
        f.MatMul(f.Reshape(part, [0, -1, width]), f.Transpose(keys, perm=[0, 2, 1]))
        for part, width, keys in ((q_latent, rank, latent), (q_rope, rope, k_rope))
    )
    logits_BHTS = f.Mul(_by_head(f, f.Add(by_latent, by_rope), q), scale)
    weights_BHTS, seen = visible_softmax(f, logits_BHTS, visible, temperature=temperature, bias=bias)
    weights_BtS = f.Reshape(weights_BHTS, f.Concat([0, -1], f.Shape(latent, start=1, end=2), axis=0))
    mixed_BHTL = _by_head(f, f.MatMul(weights_BtS, latent), q)
    y_BHTJ = f.MatMul(mixed_BHTL, f.Transpose(f.Slice(weight_HXL, [nope], [END], [1]), perm=[0, 2, 1]))
    zero = f.constant(np.asarray(0, q.dtype))
    y_BTHJ = f.Transpose(f.Where(seen, y_BHTJ, zero), perm=[0, 2, 1, 3])
    return f.known(y_BTHJ, [*q.shape[:3], rows // heads - nope if isinstance(rows, int) else None])


def _by_head(f: Body, stacked: Value, q: Value) -> Value:
    """[B, H * T, X] as [B, H, T, X], with H and T those of q [B, T, H, K]."""
    length = f.Shape(q, start=1, end=2)
    return f.Reshape(stacked, f.Concat([0, q.size(2)], length, f.Shape(stacked, start=2), axis=0))
