"""Quantised storage in standard operators; `refimpl.layers.quantization` says what each computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.graph import Body, Value
from refimpl.layers.quantization import E2M1, SCALE_BIAS, SCALE_NAN


def mxfp4_decode(f: Body, blocks: Value, scales: Value, *, dtype: npt.DTypeLike = np.float32) -> Value:
    bytes_ = np.arange(256)
    pairs = f.constant(np.stack([E2M1[bytes_ & 15], E2M1[bytes_ >> 4]], axis=-1).astype(dtype))
    with np.errstate(over="ignore"):  # beyond the format, as in the layer
        powers = np.ldexp(1.0, bytes_ - SCALE_BIAS).astype(dtype)
    powers[SCALE_NAN] = np.nan
    values = f.Gather(pairs, f.cast(blocks, np.dtype(np.int32)), axis=0)
    shared = f.Gather(f.constant(powers), f.cast(scales, np.dtype(np.int32)), axis=0)
    decoded = f.Mul(values, f.Unsqueeze(shared, [-1, -2]))
    front = [0] * (len(scales.shape) - 1)
    return f.Reshape(decoded, [*front, -1])
