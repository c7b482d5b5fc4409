"""Rotations and temperatures by other formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.variants.variant import float32, layer, rounded
from refimpl.numerics import Array


@rounded
def _by_rotated_copy(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    """x · cos + rotated(x) · sin, with cos and sin repeated."""
    half = cos.shape[-1]
    part, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        turned = np.stack([-part[..., 1::2], part[..., 0::2]], axis=-1).reshape(part.shape)
        cos, sin = np.repeat(cos, 2, axis=-1), np.repeat(sin, 2, axis=-1)
    else:
        turned = np.concatenate([-part[..., half:], part[..., :half]], axis=-1)
        cos, sin = np.concatenate([cos, cos], axis=-1), np.concatenate([sin, sin], axis=-1)
    return np.concatenate([part * cos[:, :, None] + turned * sin[:, :, None], rest], axis=-1)


@float32
def _by_complex_numbers(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    half = cos.shape[-1]
    part, rest = x[..., : 2 * half], x[..., 2 * half :]
    first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else (part[..., :half], part[..., half:])
    turned = (first + 1j * second) * (cos + 1j * sin)[:, :, None]
    pair = (turned.real, turned.imag)
    together = np.stack(pair, axis=-1).reshape(part.shape) if interleaved else np.concatenate(pair, axis=-1)
    return np.concatenate([together, rest], axis=-1).astype(x.dtype)


def _log_length(positions: Array, *, length: int, dtype: npt.DTypeLike = np.float64) -> Any:
    return (np.log2(np.maximum(positions, length)) / np.log2(length)).astype(dtype)


def _log_floor(positions: Array, *, scale: float, floor: int, offset: int = 1, dtype: npt.DTypeLike = np.float64) -> Any:
    return (1 + scale * np.log1p(np.floor((positions + offset) / floor))).astype(dtype)


VARIANTS = (
    layer("rotation-by-a-rotated-copy", "x · cos + rotated(x) · sin, every step rounded.", rotary_embedding=_by_rotated_copy),
    layer("rotation-by-complex-numbers", "Pairs are complex numbers, and rounded once.", rotary_embedding=_by_complex_numbers),
    layer(
        "temperatures-by-other-logarithms",
        "Temperatures by log2 and log1p, in float64.",
        log_length_temperature=_log_length,
        log_floor_temperature=_log_floor,
    ),
)
