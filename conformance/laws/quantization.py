"""Laws of quantised storage: signs, scales, and blocks that know nothing of each other.

Scales are powers of two, so that both sides are exact.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from conformance.laws.law import Call, Draw, Law
from refimpl.numerics import Array

SIGNS = 0x80
BLOCK = (2, 4)


def _mxfp4(draw: Draw) -> tuple[Array, Array]:
    blocks = draw.generator.integers(0, 256, (3, 2, 16)).astype(np.uint8)
    return blocks, draw.generator.integers(120, 132, (3, 2)).astype(np.uint8)


def opposite_code(call: Call, draw: Draw) -> tuple[Array, Array]:
    blocks, scales = _mxfp4(draw)
    return call("mxfp4_decode", blocks ^ 0x88, scales), -call("mxfp4_decode", blocks, scales)


def next_scale(call: Call, draw: Draw) -> tuple[Array, Array]:
    blocks, scales = _mxfp4(draw)
    return call("mxfp4_decode", blocks, scales + np.uint8(1)), 2 * call("mxfp4_decode", blocks, scales)


def _fp8(draw: Draw) -> tuple[Array, Array]:
    """Bytes of finite values [7, 9] of E4M3 and of their scales in UE8M0."""
    values = draw.generator.integers(0, 127, (7, 9)) + SIGNS * draw.generator.integers(0, 2, (7, 9))
    return values.astype(np.uint8), draw.generator.integers(120, 132, (4, 3)).astype(np.uint8)


def _decoded(call: Call, values: Array, scales: Array) -> Any:
    numbers, powers = values.view(ml_dtypes.float8_e4m3fn), scales.view(ml_dtypes.float8_e8m0fnu)
    return call("fp8_block_decode", numbers, powers, block=BLOCK)


def opposite_value(call: Call, draw: Draw) -> tuple[Array, Array]:
    values, scales = _fp8(draw)
    return _decoded(call, values ^ np.uint8(SIGNS), scales), -_decoded(call, values, scales)


def next_block_scale(call: Call, draw: Draw) -> tuple[Array, Array]:
    values, scales = _fp8(draw)
    return _decoded(call, values, scales + np.uint8(1)), 2 * _decoded(call, values, scales)


def blocks_alone(call: Call, draw: Draw) -> tuple[Array, Array]:
    values, scales = _fp8(draw)
    alone = [_decoded(call, values[2 * row : 2 * row + 2], scales[row : row + 1]) for row in range(len(scales))]
    return np.concatenate(alone), _decoded(call, values, scales)


def _int4(draw: Draw) -> tuple[Array, Array]:
    """Nibbles 1 to 15 [3, 64], which have an opposite, and scales [3, 2]."""
    nibbles = draw.generator.integers(1, 16, (3, 64))
    return nibbles, np.ldexp(1.0, draw.generator.integers(-5, 6, (3, 2))).astype(np.float32)


def _packed(nibbles: Array) -> Array:
    words = np.sum(nibbles.reshape(*nibbles.shape[:-1], -1, 8) << np.arange(0, 32, 4), axis=-1)
    return words.astype(np.uint32).view(np.int32)


def opposite_nibble(call: Call, draw: Draw) -> tuple[Array, Array]:
    nibbles, scales = _int4(draw)
    opposite = call("int4_group_decode", _packed(16 - nibbles), scales)
    return opposite, -call("int4_group_decode", _packed(nibbles), scales)


def groups_alone(call: Call, draw: Draw) -> tuple[Array, Array]:
    nibbles, scales = _int4(draw)
    parts = [(nibbles[:, 32 * group : 32 * group + 32], scales[:, group : group + 1]) for group in range(2)]
    alone = [call("int4_group_decode", _packed(np.ascontiguousarray(part)), scale) for part, scale in parts]
    return np.concatenate(alone, axis=-1), call("int4_group_decode", _packed(nibbles), scales)


def _law(name: str, statement: str, sides: Any, function: str) -> Law:
    return Law(name=name, functions=(function,), statement=statement, sides=sides, dtypes=("float32",))


MXFP4, FP8, INT4 = "mxfp4_decode", "fp8_block_decode", "int4_group_decode"
LAWS = (
    _law("opposite", "the sign bit negates", opposite_code, MXFP4),
    _law("next_scale", "a scale of one more doubles", next_scale, MXFP4),
    _law("opposite", "the sign bit negates", opposite_value, FP8),
    _law("next_scale", "a scale in UE8M0 of one more doubles", next_block_scale, FP8),
    _law("blocks_alone", "rows of blocks decoded alone are what they are together", blocks_alone, FP8),
    _law("opposite", "a nibble as far on the other side of 8 negates", opposite_nibble, INT4),
    _law("groups_alone", "groups decoded alone are what they are together", groups_alone, INT4),
)
