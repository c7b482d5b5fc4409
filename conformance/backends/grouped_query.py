"""onnxruntime's GroupQueryAttention as the layer `attention`: keys of the past and the new ones, both without gaps."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.backends.rows import consecutive
from conformance.backends.single_node import MICROSOFT, Operators
from refimpl.numerics import Array

WIDTHS = 8  # heads are as wide as a multiple of it


def grouped_query_attention(
    node: Operators,
    q: Array,
    k: Array,
    v: Array,
    *,
    bias: Array | None,
    sinks: Array | None,
    q_order: Array | None,
    k_order: Array | None,
    **settings: Any,
) -> Array:
    """[B, T, H, J]. NotImplementedError where the queries of a row are not the last of its keys."""
    (B, T, H, _), S = q.shape, k.shape[1]
    if T > S:
        raise NotImplementedError("GroupQueryAttention needs a key for every query")
    full = None if bias is None else np.broadcast_to(bias, (B, H, T, S))
    if q_order is None and k_order is None:
        if S == T or T == 1:
            return _run(node, q, k, v, full, sinks, **settings)
        # Several new tokens after a past are taken of one row alone.
        rows = [slice(row, row + 1) for row in range(B)]
        biases = [None if full is None else full[row] for row in rows]
        return np.concatenate(
            [_run(node, q[row], k[row], v[row], each, sinks, **settings) for row, each in zip(rows, biases, strict=True)]
        )
    k_order = np.broadcast_to(np.arange(S), (B, S)) if k_order is None else k_order
    q_order = k_order[:, S - T :] if q_order is None else q_order
    padded_right = S == T and all(np.array_equal(order, _counted(order)) for order in (*q_order, *k_order))
    if padded_right and np.array_equal(q_order, k_order) and (k_order[:, 0] == 0).all():
        lengths = np.sum(k_order >= 0, axis=1)
        y = _run(node, q, k, v, full, sinks, lengths, **settings)
        return np.where((q_order >= 0)[..., None, None], y, y.dtype.type(0))  # it leaves padding as it is
    y = np.zeros((B, T, H, v.shape[3]), q.dtype)
    for row in range(B):
        columns = consecutive(q_order, k_order, row)
        if columns is None:
            raise NotImplementedError("GroupQueryAttention has no places: queries must be the last of keys without gaps")
        queries, keys = columns
        if len(queries):
            each = None if full is None else full[row : row + 1][:, :, queries][..., keys]
            arrays = (q[row, queries][None], k[row, keys][None], v[row, keys][None])
            y[row, queries] = _run(node, *arrays, each, sinks, **settings)[0]
    return y


def _counted(order: Array) -> Array:
    """The places of a row whose padding is on its right."""
    return np.where(np.arange(len(order)) < np.sum(order >= 0), np.arange(len(order)), -1)


def _run(
    node: Operators,
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    sinks: Array | None,
    lengths: Array | None = None,
    **settings: Any,
) -> Array:
    """One call of the node: the first S - T keys are the past, and widths are filled up with zeros, which add nothing."""
    (B, T, H, K), (S, G, J) = q.shape, v.shape[1:]
    width = -(-max(K, J) // WIDTHS) * WIDTHS
    q, k, v = (np.pad(each, [(0, 0)] * 3 + [(0, width - each.shape[3])]) for each in (q, k, v))
    past = [np.ascontiguousarray(each[:, : S - T].swapaxes(1, 2)) if S > T else None for each in (k, v)]
    new = [np.ascontiguousarray(each[:, S - T :]).reshape(B, T, G * width) for each in (k, v)]
    last = (np.full(B, S) if lengths is None else lengths).astype(np.int32) - np.int32(1)
    y, _, _ = node(
        "GroupQueryAttention",
        q.reshape(B, T, H * width),
        *new,
        *past,
        last,
        np.array(S, np.int32),
        None,
        None,
        None,
        None if bias is None else np.ascontiguousarray(bias),
        sinks,
        domain=MICROSOFT,
        outputs=("y", "present_key", "present_value"),
        num_heads=H,
        kv_num_heads=G,
        **settings,
    )
    return y.reshape(B, T, H, width)[..., :J]
