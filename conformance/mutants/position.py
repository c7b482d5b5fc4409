"""Rotations and temperatures that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.computing import computing_in
from conformance.family import WIDE_DTYPES
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import FORMATS, Array

wide = computing_in(np.float32)


@wide
def other_pairs(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    return layers.rotary_embedding(x, cos, sin, interleaved=not interleaved)


@wide
def pairs_over_the_head(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    """Half-split pairs (i, i + K/2) where only P < K entries turn."""
    if interleaved:
        return layers.rotary_embedding(x, cos, sin, interleaved=True)
    half, pairs = x.shape[-1] // 2, cos.shape[-1]
    y = x.copy()
    first, second = x[..., :pairs], x[..., half : half + pairs]
    y[..., :pairs] = first * cos[:, :, None] - second * sin[:, :, None]
    y[..., half : half + pairs] = second * cos[:, :, None] + first * sin[:, :, None]
    return y


@wide
def turned_backwards(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    return layers.rotary_embedding(x, cos, -sin, interleaved=interleaved)


def narrow_angles(positions: Array, inv_freq: Array, *, attention_factor: float = 1.0) -> Any:
    """Angles in bfloat16."""
    narrow = FORMATS["bfloat16"]
    angles = (positions[:, :, None].astype(narrow) * inv_freq.astype(narrow)).astype(inv_freq.dtype)
    return np.cos(angles) * inv_freq.dtype.type(attention_factor), np.sin(angles) * inv_freq.dtype.type(attention_factor)


def rounded_tables(positions: Array, inv_freq: Array, *, attention_factor: float = 1.0) -> Any:
    """cos and sin in bfloat16."""
    tables = layers.rope_cos_sin(positions, inv_freq, attention_factor=attention_factor)
    return tuple(table.astype(FORMATS["bfloat16"]).astype(table.dtype) for table in tables)


def factor_ignored(positions: Array, inv_freq: Array, *, attention_factor: float = 1.0) -> Any:
    return layers.rope_cos_sin(positions, inv_freq)


@wide
def last_row_is_missing(positions: Array, weight: Array) -> Array:
    return weight[np.clip(positions, 0, len(weight) - 2)]


def ratio_of_lengths(positions: Array, *, length: int, dtype: npt.DTypeLike = np.float64) -> Array:
    return np.maximum(positions, length).astype(dtype) / length


def reciprocal_ratio(positions: Array, *, length: int, dtype: npt.DTypeLike = np.float64) -> Array:
    return length / np.maximum(positions, length).astype(dtype)


def positions_from_one(positions: Array, *, length: int, dtype: npt.DTypeLike = np.float64) -> Array:
    return layers.log_length_temperature(positions + 1, length=length, dtype=dtype)


def colder_before_the_length(positions: Array, *, length: int, dtype: npt.DTypeLike = np.float64) -> Array:
    return (np.log(np.maximum(positions, 1)) / np.log(length)).astype(dtype)


def offset_dropped(positions: Array, *, scale: float, floor: int, offset: int = 1, dtype: npt.DTypeLike = np.float64) -> Array:
    return layers.log_floor_temperature(positions, scale=scale, floor=floor, offset=0, dtype=dtype)


def without_steps(positions: Array, *, scale: float, floor: int, offset: int = 1, dtype: npt.DTypeLike = np.float64) -> Array:
    return (1 + scale * np.log(1 + (positions + offset) / floor)).astype(dtype)


def one_inside_left_out(
    positions: Array, *, scale: float, floor: int, offset: int = 1, dtype: npt.DTypeLike = np.float64
) -> Array:
    return (1 + scale * np.log(np.maximum((positions + offset) // floor, 1))).astype(dtype)


MUTANTS = (
    layer(
        "rope-interleaved-instead-of-half",
        "rotary_embedding",
        other_pairs,
        "Neighbours are turned where the two halves belong together, or the reverse.",
    ),
    layer(
        "qk-norm-rope-kernel-partial-neox",
        "rotary_embedding",
        pairs_over_the_head,
        "Where a part of a head turns, its pairs reach over the whole head.",
    ),
    layer("turned-backwards", "rotary_embedding", turned_backwards, "The angle has the other sign."),
    layer(
        "rope-inv-freq-bf16",
        "rope_cos_sin",
        narrow_angles,
        "Positions, frequencies and angles are rounded to bfloat16.",
        "rope-table-bf16-candle",
        "rope-autocast-matmul",
        "rope-half-neox",
        dtypes=WIDE_DTYPES,
    ),
    layer(
        "rope-cache-dtype-derived",
        "rope_cos_sin",
        rounded_tables,
        "The tables of cos and sin are kept in bfloat16 where the model computes in a wider format.",
        dtypes=WIDE_DTYPES,
    ),
    layer(
        "attention-factor-ignored",
        "rope_cos_sin",
        factor_ignored,
        "cos and sin are not multiplied by the attention factor.",
        dtypes=WIDE_DTYPES,
    ),
    layer("last-position-missing", "position_embedding", last_row_is_missing, "The last row of the table is never reached."),
    layer(
        "grok-temperature-reciprocal-vs-log",
        "log_length_temperature",
        ratio_of_lengths,
        "The temperature is the ratio of the lengths and not that of their logarithms.",
        dtypes=WIDE_DTYPES,
    ),
    layer(
        "reciprocal-ratio",
        "log_length_temperature",
        reciprocal_ratio,
        "The temperature is the reciprocal ratio of the lengths.",
        dtypes=WIDE_DTYPES,
    ),
    layer("positions-from-one", "log_length_temperature", positions_from_one, "Positions count from 1.", dtypes=WIDE_DTYPES),
    layer(
        "colder-before-the-length",
        "log_length_temperature",
        colder_before_the_length,
        "The temperature falls below 1 before the length.",
        dtypes=WIDE_DTYPES,
    ),
    layer("offset-dropped", "log_floor_temperature", offset_dropped, "Positions count from 0.", dtypes=WIDE_DTYPES),
    layer(
        "temperature-without-steps",
        "log_floor_temperature",
        without_steps,
        "The quotient of position and floor is not rounded down.",
        dtypes=WIDE_DTYPES,
    ),
    layer(
        "1-inside-left-out",
        "log_floor_temperature",
        one_inside_left_out,
        "The 1 inside of the logarithm is left out.",
        dtypes=WIDE_DTYPES,
    ),
)
