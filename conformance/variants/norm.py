"""Norms with other roots: multiplied by a reciprocal one, found by Newton's steps, rounded on their way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.variants.variant import Function, Variant, float32, layer, rounded
from refimpl.numerics import Array, low_precision, plain

Root = Callable[[Array], Array]


def _reciprocal(square: Array) -> Array:
    return 1 / np.sqrt(square)


def _by_newton(square: Array) -> Array:
    """From an estimate good to one part in a thousand, as processors give it, as many steps as the format needs."""
    root = (1 / np.sqrt(square)) * square.dtype.type(1 + 1e-3)
    for _ in range(3 if square.dtype == np.float32 else 4):
        root = root * (square.dtype.type(1.5) - square.dtype.type(0.5) * square * root * root)
    return root


def _by_power(square: Array) -> Array:
    return np.power(square, square.dtype.type(-0.5))


def _norms(root: Root) -> dict[str, Function]:
    @float32
    def rms_norm(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
        y = x * root(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
        return y if weight is None else y * (weight + x.dtype.type(1) if zero_centred else weight)

    @float32
    def layer_norm(x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
        centred = x - x[..., ::-1].mean(axis=-1, keepdims=True)
        y = centred * root(np.square(centred[..., ::-1]).mean(axis=-1, keepdims=True) + x.dtype.type(eps)) * weight
        return y if bias is None else y + bias

    @float32
    def l2_norm(x: Array, *, eps: float) -> Array:
        return x * root(np.sum(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))

    return {"rms_norm": rms_norm, "layer_norm": layer_norm, "l2_norm": l2_norm}


def _variant(id: str, says: str, root: Root) -> Variant:
    return layer(id, says, **_norms(root))


@float32
def _layer_norm_in_one_pass(x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
    """Welford's running mean and sum of squares."""
    mean, squares = np.zeros(x.shape[:-1], x.dtype), np.zeros(x.shape[:-1], x.dtype)
    for index in range(x.shape[-1]):
        step = x[..., index] - mean
        mean = mean + step / x.dtype.type(index + 1)
        squares = squares + step * (x[..., index] - mean)
    root = np.sqrt(squares / x.dtype.type(x.shape[-1]) + x.dtype.type(eps))
    y = (x - mean[..., None]) / root[..., None] * weight
    return y if bias is None else y + bias


@rounded
def _by_rounded_length(x: Array, *, eps: float) -> Any:
    return x / _length(x, eps)


def _length(x: Array, eps: float) -> Any:
    if hasattr(x, "precision"):
        return low_precision(np.sqrt(np.sum(plain(x) ** 2, axis=-1, keepdims=True) + np.float32(eps)), x.precision)
    return np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))


@float32
def _gated_in_one_pass(
    x: Array, gate: Array, weight: Array, *, eps: float, activation: str = "silu", gate_first: bool = False
) -> Array:
    factor = 1 / (1 + np.exp(-gate))
    factor = factor * gate if activation == "silu" else factor
    inside = x * factor if gate_first else x
    root = 1 / np.sqrt(np.mean(np.square(inside), axis=-1, keepdims=True) + x.dtype.type(eps))
    return inside * (root * weight) if gate_first else inside * root * (weight * factor)


VARIANTS = (
    _variant("reciprocal-root", "A reciprocal root is multiplied, and the gain is applied in float32.", _reciprocal),
    _variant("reciprocal-root-by-newton", "The reciprocal root is an estimate and Newton's steps.", _by_newton),
    _variant("reciprocal-root-as-a-power", "The reciprocal root is the power -1/2.", _by_power),
    layer("layer-norm-in-one-pass", "Welford's running mean and variance.", layer_norm=_layer_norm_in_one_pass),
    layer("length-rounded", "The length is rounded to the model's format before it divides.", l2_norm=_by_rounded_length),
    layer("gated-norm-in-one-pass", "Norm, gain and gate are rounded once.", gated_rms_norm=_gated_in_one_pass),
)
