"""Activations and gates by other elementary functions, or rounded elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from conformance.variants.variant import float32, layer, rounded
from refimpl.numerics import Array, low_precision, plain

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


@rounded
def _silu_of_sigmoid(x: Array) -> Any:
    if hasattr(x, "precision"):
        return x * low_precision(1 / (1 + np.exp(-plain(x))), x.precision)
    return x * (1 / (1 + np.exp(-x)))


@float32
def _swiglu_once(gate: Array, up: Array) -> Array:
    return gate * up / (1 + np.exp(-gate))


@float32
def _clamped_swiglu_once(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    gate, up = np.minimum(gate, gate.dtype.type(limit)), np.clip(up, -limit, limit)
    opened = gate / (1 + np.exp(-gate.dtype.type(alpha) * gate))
    return opened * up + opened


@float32
def _sigmoid_gate_by_division(x: Array, gate: Array) -> Array:
    return x / (1 + np.exp(-gate))


def _sigmoid(x: Array) -> Array:
    return (np.tanh(x / 2) + 1) / 2


@float32
def _sigmoid_by_tanh(x: Array) -> Array:
    return _sigmoid(x)


def _exp(x: Array) -> Array:
    """By the power of two, as hardware has it."""
    return np.exp2(x * x.dtype.type(np.log2(np.e)))


@float32
def _silu_in_base_two(x: Array) -> Array:
    return x / (1 + _exp(-x))


@float32
def _swiglu_in_base_two(gate: Array, up: Array) -> Array:
    return gate / (1 + _exp(-gate)) * up


@float32
def _sigmoid_in_base_two(x: Array) -> Array:
    return 1 / (1 + _exp(-x))


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        inside = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
        return x / (1 + np.exp(-2 * inside))
    return x / 2 * _erfc(-x / math.sqrt(2)).astype(x.dtype)


@float32
def _gelu_otherwise(x: Array, *, approximate: str = "none") -> Array:
    return _gelu(x, approximate)


@float32
def _geglu_once(gate: Array, up: Array, *, approximate: str = "none") -> Array:
    return up * _gelu(gate, approximate)


VARIANTS = (
    layer("sigmoid-rounded-in-silu", "The sigmoid is rounded to the model's format before the product.", silu=_silu_of_sigmoid),
    layer(
        "gates-rounded-once",
        "Gates are rounded once, after the product.",
        swiglu=_swiglu_once,
        clamped_swiglu=_clamped_swiglu_once,
        sigmoid_gate=_sigmoid_gate_by_division,
    ),
    layer("sigmoid-by-tanh", "The sigmoid is half of 1 + tanh of the half.", sigmoid=_sigmoid_by_tanh),
    layer(
        "activations-in-base-two",
        "Exponentials are powers of two.",
        silu=_silu_in_base_two,
        swiglu=_swiglu_in_base_two,
        sigmoid=_sigmoid_in_base_two,
    ),
    layer(
        "gelu-by-sigmoid-and-erfc",
        "GELU without the cancellation of 1 + erf and 1 + tanh, rounded once.",
        gelu=_gelu_otherwise,
        geglu=_geglu_once,
    ),
)
