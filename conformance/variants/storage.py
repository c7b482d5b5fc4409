"""Rings filled token by token, numbers decoded by their parts, rows of a table picked by a product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conformance.variants.variant import float32, layer
from refimpl.numerics import Array


def _token_by_token(new: Array, order: Array, ring: Array | None = None, *, window: int) -> Array:
    """Every real token into its slot, whether it will stay or not."""
    batch, length = order.shape
    past = length - new.shape[1]
    result = np.zeros((batch, min(length, window), *new.shape[2:]), new.dtype)
    if ring is not None:
        result[:, : ring.shape[1]] = ring
    for token in range(past, length):
        for row in range(batch):
            if order[row, token] >= 0:
                result[row, order[row, token] % window] = new[row, token - past]
    return result


def _mxfp4_by_parts(blocks: Array, scales: Array, *, dtype: npt.DTypeLike = np.float32) -> Array:
    """Sign, exponent and mantissa of a code taken apart, in float64."""
    codes = np.stack([blocks % 16, blocks // 16], axis=-1).reshape(*scales.shape, 32).astype(int)
    sign, exponent, mantissa = 1 - 2 * (codes >> 3), codes >> 1 & 3, codes & 1
    size = np.where(exponent == 0, mantissa * 0.5, (1 + mantissa / 2) * 2.0 ** (exponent - 1))
    power = np.where(scales == 255, np.nan, 2.0 ** (scales.astype(float) - 127))
    return (sign * size * power[..., None]).reshape(*scales.shape[:-1], -1).astype(dtype)


@float32
def _embedding_by_a_product(tokens: Array, weight: Array, *, scale: float | None = None) -> Array:
    rows = (tokens[..., None] == np.arange(len(weight))).astype(weight.dtype) @ weight
    return rows if scale is None else rows * weight.dtype.type(scale)


VARIANTS = (
    layer("ring-token-by-token", "Every token goes into its slot, whether it will stay or not.", ring_append=_token_by_token),
    layer("mxfp4-by-parts", "Sign, exponent and mantissa of a code are taken apart.", mxfp4_decode=_mxfp4_by_parts),
    layer("embedding-by-a-product", "Rows of the table by a product with ones and zeros.", embedding=_embedding_by_a_product),
)
