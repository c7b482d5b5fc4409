"""Positions in standard operators; `refimpl.layers.frequencies` and `.position` say what each computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph import Body, Value


def rope_frequencies(f: Body, *, rotary_dim: int, theta: float, dtype: npt.DTypeLike = np.float64) -> Value:
    exponents = f.Div(_counted(f, 0, rotary_dim, 2, dtype), float(rotary_dim))
    return f.Reciprocal(f.Pow(f.constant(np.asarray(theta, dtype)), exponents))


def linear_rope_frequencies(
    f: Body, *, rotary_dim: int, theta: float, factor: float, dtype: npt.DTypeLike = np.float64
) -> Value:
    return f.Div(rope_frequencies(f, rotary_dim=rotary_dim, theta=theta, dtype=dtype), factor)


def llama3_rope_frequencies(
    f: Body,
    *,
    rotary_dim: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
    dtype: npt.DTypeLike = np.float64,
) -> Value:
    frequencies = rope_frequencies(f, rotary_dim=rotary_dim, theta=theta, dtype=dtype)
    interpolated = f.Div(frequencies, factor)
    turns = f.Mul(frequencies, original_max_position_embeddings / (2 * math.pi))
    scaled = f.Where(f.Less(turns, low_freq_factor), interpolated, frequencies)
    if high_freq_factor != low_freq_factor:
        blend = f.Div(f.Sub(turns, low_freq_factor), high_freq_factor - low_freq_factor)
        between = f.Add(f.Mul(f.Sub(1.0, blend), interpolated), f.Mul(blend, frequencies))
        in_band = f.And(f.GreaterOrEqual(turns, low_freq_factor), f.LessOrEqual(turns, high_freq_factor))
        scaled = f.Where(in_band, between, scaled)
    return scaled


def yarn_rope_frequencies(
    f: Body,
    *,
    rotary_dim: int,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    dtype: npt.DTypeLike = np.float64,
) -> Value:
    low, high = (_yarn_dimension(rotary_dim, theta, original_max_position_embeddings, beta) for beta in (beta_fast, beta_slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    width = high - low or 0.001
    frequencies = rope_frequencies(f, rotary_dim=rotary_dim, theta=theta, dtype=dtype)
    pairs = _counted(f, 0, rotary_dim // 2, 1, dtype)
    ramp = f.Clip(f.Div(f.Sub(pairs, low), width), 0.0, 1.0)
    kept = f.Mul(frequencies, f.Sub(1.0, ramp))
    return f.Add(kept, f.Mul(f.Div(frequencies, factor), ramp))


def grok_yarn_rope_frequencies(
    f: Body,
    *,
    rotary_dim: int,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    extrapolation_factor: float = 1.0,
    blend: str = "linear",
    dtype: npt.DTypeLike = np.float64,
) -> Value:
    fast, slow = (_yarn_dimension(rotary_dim, theta, original_max_position_embeddings, beta) for beta in (beta_fast, beta_slow))
    low, high = max(float(math.floor(fast)), 0.0), min(math.ceil(slow), rotary_dim - 1)
    if low == high:
        low -= 0.001
    frequencies = rope_frequencies(f, rotary_dim=rotary_dim, theta=theta, dtype=dtype)
    ramp = f.Clip(f.Div(f.Sub(_counted(f, 0, rotary_dim // 2, 1, dtype), low), high - low), 0.0, 1.0)
    kept = f.Mul(f.Sub(1.0, ramp), extrapolation_factor)
    if blend == "log":
        return f.Mul(frequencies, f.Pow(f.constant(np.asarray(factor, dtype)), f.Sub(kept, 1.0)))
    return f.Add(f.Mul(frequencies, kept), f.Mul(f.Div(frequencies, factor), f.Sub(1.0, kept)))


def theta_scaled_rope_frequencies(
    f: Body,
    *,
    rotary_dim: int,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    dtype: npt.DTypeLike = np.float64,
) -> Value:
    turns = original_max_position_embeddings / (2 * math.pi)
    return f.Pow(
        rope_frequencies(f, rotary_dim=rotary_dim, theta=theta, dtype=dtype), math.log(turns * factor) / math.log(turns)
    )


def rope_cos_sin(f: Body, positions: Value, inv_freq: Value, *, attention_factor: float = 1.0) -> tuple[Value, Value]:
    angles = f.Mul(f.Unsqueeze(f.cast(positions, inv_freq.dtype), [2]), inv_freq)
    cos, sin = f.Cos(angles), f.Sin(angles)
    return (cos, sin) if attention_factor == 1 else (f.Mul(cos, attention_factor), f.Mul(sin, attention_factor))


def rotary_embedding(f: Body, x: Value, cos: Value, sin: Value, *, interleaved: bool = False) -> Value:
    width, half = x.size(-1), cos.size(-1)
    rotated_part, rest = x, None
    if 2 * half < width:
        rotated_part, rest = f.Split(x, [2 * half, width - 2 * half], axis=-1, outputs=2)
    cos, sin = f.Unsqueeze(cos, [2]), f.Unsqueeze(sin, [2])
    if interleaved:
        rotated = _rotate_pairs(f, rotated_part, cos, sin, half)
    else:
        first, second = f.Split(rotated_part, [half, half], axis=-1, outputs=2)
        rotated = f.Concat(*_rotate(f, first, second, cos, sin), axis=-1)
    return rotated if rest is None else f.Concat(rotated, rest, axis=-1)


def position_embedding(f: Body, positions: Value, weight: Value, *, dtype: np.dtype[Any] | None = None) -> Value:
    rows: Value = f.Gather(weight, f.Max(positions, 0))
    return rows if dtype is None else f.cast(rows, dtype)


def token_order(f: Body, attention_mask: Value) -> Value:
    mask = f.cast(attention_mask, np.dtype(np.int64))
    places = f.Sub(f.CumSum(mask, np.asarray(1)), 1)
    return f.Where(f.Equal(mask, 1), places, -1)


def _rotate(f: Body, first: Value, second: Value, cos: Value, sin: Value) -> tuple[Value, Value]:
    new_first: Value = f.Sub(f.Mul(first, cos), f.Mul(second, sin))
    new_second: Value = f.Add(f.Mul(second, cos), f.Mul(first, sin))
    return new_first, new_second


def _rotate_pairs(f: Body, x: Value, cos: Value, sin: Value, half: int) -> Value:
    """Rotate the pairs (2i, 2i + 1), seen as [B, T, H, P/2, 2]."""
    pairs = f.Reshape(x, [0, 0, 0, half, 2])
    first, second = f.Split(pairs, [1, 1], axis=-1, outputs=2)
    rotated = _rotate(f, f.Squeeze(first, [-1]), f.Squeeze(second, [-1]), cos, sin)
    stacked = f.Concat(*(f.Unsqueeze(part, [-1]) for part in rotated), axis=-1)
    return f.Reshape(stacked, [0, 0, 0, 2 * half])


def _counted(f: Body, start: int, stop: int, step: int, dtype: npt.DTypeLike) -> Value:
    """start, start + step, ... below stop, in `dtype`."""
    return f.cast(f.Range(*(np.asarray(bound) for bound in (start, stop, step))), np.dtype(dtype))


def log_length_temperature(f: Body, positions: Value, *, length: int, dtype: npt.DTypeLike = np.float64) -> Value:
    far = f.cast(f.Max(positions, length), np.dtype(dtype))
    return f.Div(f.Log(far), f.constant(np.log(np.asarray(length, dtype))))


def log_floor_temperature(
    f: Body, positions: Value, *, scale: float, floor: int, offset: int = 1, dtype: npt.DTypeLike = np.float64
) -> Value:
    # An integer Div rounds towards zero, which is down: no position is negative.
    steps = f.cast(f.Div(f.Add(positions, offset), floor), np.dtype(dtype))
    return f.Add(f.Mul(f.Log(f.Add(steps, 1.0)), scale), 1.0)


def _yarn_dimension(rotary_dim: int, theta: float, original_max_position_embeddings: int, turns: float) -> float:
    """The real-valued pair that makes so many turns within the original length."""
    return rotary_dim * math.log(original_max_position_embeddings / (2 * math.pi * turns)) / (2 * math.log(theta))
