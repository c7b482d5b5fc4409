"""Attention whose sinks, temperatures or cached scales are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array

wide = computing_in(np.float32)


@wide
def sink_scaled(q: Array, k: Array, v: Array, *, scale: float, sinks: Array | None = None, **options: Any) -> Array:
    return layers.attention(q, k, v, scale=scale, sinks=None if sinks is None else sinks * q.dtype.type(scale), **options)


@wide
def sink_in_base_two(q: Array, k: Array, v: Array, *, sinks: Array | None = None, **options: Any) -> Array:
    return layers.attention(q, k, v, **options, **_given(sinks=None if sinks is None else sinks * np.log(sinks.dtype.type(2))))


@wide
def sink_added_to_every_score(
    q: Array, k: Array, v: Array, *, sinks: Array | None = None, bias: Array | None = None, **options: Any
) -> Array:
    if sinks is not None:
        bias = sinks[:, None, None] + (0 if bias is None else bias)
    return layers.attention(q, k, v, **options, **_given(bias=bias))


@wide
def sink_counted_twice(q: Array, k: Array, v: Array, *, sinks: Array | None = None, **options: Any) -> Array:
    return layers.attention(q, k, v, **options, **_given(sinks=None if sinks is None else sinks + np.log(sinks.dtype.type(2))))


@wide
def temperature_before_cap(q: Array, k: Array, v: Array, *, temperature: Array | None = None, **options: Any) -> Array:
    return layers.attention(q if temperature is None else q * temperature[:, :, None, None], k, v, **options)


@wide
def temperature_of_the_keys(q: Array, k: Array, v: Array, *, temperature: Array | None = None, **options: Any) -> Array:
    """The temperature of the key's place in the queries' row, as of a square of scores read the wrong way."""
    if temperature is not None:
        k = k * np.resize(temperature, k.shape[:2])[:, :, None, None]
    return layers.attention(q, k, v, **options)


@wide
def temperature_on_sinks(
    q: Array, k: Array, v: Array, *, temperature: Array | None = None, sinks: Array | None = None, **options: Any
) -> Array:
    if temperature is None or sinks is None:
        return layers.attention(q, k, v, **options, **_given(temperature=temperature, sinks=sinks))
    rows = [
        layers.attention(
            q[b : b + 1],
            k[b : b + 1],
            v[b : b + 1],
            temperature=temperature[b : b + 1],
            sinks=sinks * temperature[b, -1],
            **options,
        )
        for b in range(len(q))
    ]
    return np.concatenate(rows)


@wide
def temperature_on_bias(
    q: Array, k: Array, v: Array, *, temperature: Array | None = None, bias: Array | None = None, **options: Any
) -> Array:
    if temperature is not None and bias is not None:
        bias = bias * temperature[:, None, :, None]
    return layers.attention(q, k, v, **options, **_given(temperature=temperature, bias=bias))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


E4M3_MAX = 448


def _scales(x: Array, axes: tuple[int, ...]) -> Array:
    """By which E4M3 reaches the largest entry over some axes."""
    return np.abs(x).max(axis=axes, keepdims=True) / x.dtype.type(E4M3_MAX)


@wide
def scale_of_the_first_head(q: Array, k: Array, v: Array, **options: Any) -> Array:
    """Keys are stored divided by the scale of their head and multiplied by another."""
    scales = _scales(k, (1, 3))
    return layers.attention(q, k / scales * scales[:1, :, :1], v, **options)


@wide
def scales_lost(q: Array, k: Array, v: Array, **options: Any) -> Array:
    return layers.attention(q, k / _scales(k, (0, 1, 2, 3)), v / _scales(v, (0, 1, 2, 3)), **options)


MUTANTS = (
    layer("sink-scaled", "attention", sink_scaled, "The sink is multiplied by the scale of the products."),
    layer(
        "sink-wrong-scale-log2",
        "attention",
        sink_in_base_two,
        "The sink joins scores in units of log 2 without a change of units.",
    ),
    layer(
        "sinks-applied-in-score-mod",
        "attention",
        sink_added_to_every_score,
        "The sink is added to every score, which softmax does not notice, and not to the denominator.",
    ),
    layer(
        "sink-counted-per-split",
        "attention",
        sink_counted_twice,
        "Each of two parts of the keys adds the sink to the denominator.",
    ),
    layer("temperature-before-the-cap", "attention", temperature_before_cap, "The temperature acts before the soft cap."),
    layer("temperature-of-the-keys", "attention", temperature_of_the_keys, "The temperature is that of the key's place."),
    layer("temperature-on-the-sinks", "attention", temperature_on_sinks, "The temperature multiplies the sinks as well."),
    layer("temperature-on-the-bias", "attention", temperature_on_bias, "The temperature multiplies the bias as well."),
    layer(
        "fp8-kv-per-head-scale-read-as-scalar",
        "attention",
        scale_of_the_first_head,
        "Cached keys of all heads are read with the scale of the first.",
    ),
    layer(
        "fp8-kv-scale-positional-args",
        "attention",
        scales_lost,
        "The scales of cached keys and values do not reach the kernel, which takes 1.",
    ),
)
