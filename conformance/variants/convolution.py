"""Convolutions whose taps are summed in other orders, and decays by other softplus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conformance.mutants.by_name import Arguments, computed
from conformance.variants.variant import Function, layer
from refimpl.numerics import Array

Sums = Callable[[Array, Array, Array], Array]


def _gathered(x: Array, weight: Array, state: Array | None, order: Array | None) -> tuple[Array, Array]:
    """The W inputs that each token sees, [B, T, D, W] (0 for padding), and the state after."""
    B, T, D = x.shape
    width = weight.shape[1] - 1
    windows, states = np.zeros((B, T, D, width + 1), x.dtype), np.zeros((B, D, width), x.dtype)
    for row in range(B):
        real = np.arange(T) if order is None else np.flatnonzero(order[row] >= 0)
        past = np.zeros((D, width), x.dtype) if state is None else state[row]
        seen = np.concatenate([past, x[row, real].T], axis=1)
        for place, token in enumerate(real):
            windows[row, token] = seen[:, place : place + width + 1]
        states[row] = seen[:, seen.shape[1] - width :]
    return windows, states


def _convolution(sums: Sums) -> dict[str, Function]:
    """sums(windows: Array, weight: Array, bias: Array) -> Array: of all windows at once."""

    def convolved(own: Arguments) -> tuple[Array, Array]:
        windows, state = _gathered(own["x"], own["weight"], own["state"], own["order"])
        bias = np.zeros_like(own["weight"][:, 0]) if own["bias"] is None else own["bias"]
        y = sums(windows, own["weight"], bias)
        return y if own["order"] is None else np.where((own["order"] >= 0)[..., None], y, 0), state

    return {"causal_conv1d": computed("causal_conv1d", convolved)}


def _as_a_product_of_matrices(windows: Array, weight: Array, bias: Array) -> Array:
    """A product a channel, of all windows and its taps."""
    return (windows.transpose(2, 0, 1, 3) @ weight[:, None, :, None])[..., 0].transpose(1, 2, 0) + bias


def _newest_tap_first(windows: Array, weight: Array, bias: Array) -> Array:
    y = np.zeros(windows.shape[:3], windows.dtype)
    for tap in reversed(range(weight.shape[1])):
        y += windows[..., tap] * weight[:, tap]
    return y + bias


def _bias_before_the_taps(windows: Array, weight: Array, bias: Array) -> Array:
    y = np.broadcast_to(bias, windows.shape[:3]).copy()
    for tap in range(weight.shape[1]):
        y += windows[..., tap] * weight[:, tap]
    return y


def _decay(softplus: Callable[[Array], Array]) -> dict[str, Function]:
    def decay(own: Arguments) -> Array:
        rate = np.exp(own["a_log"]).reshape(-1, *(1,) * (own["a"].ndim - 3))
        return -(rate * softplus(own["a"] + own["dt_bias"].reshape(own["a"].shape[2:])))

    return {"softplus_decay": computed("softplus_decay", decay)}


def _softplus_of_the_size(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@np.errstate(over="ignore")
def _softplus_to_forty(x: Array) -> Array:
    """x itself from 40 on, where the rest is below a rounding of float64."""
    return np.where(x > 40, x, np.log1p(np.exp(x)))


VARIANTS = (
    layer(
        "convolution-as-a-product",
        "All windows and the taps of a channel are a product.",
        **_convolution(_as_a_product_of_matrices),
    ),
    layer("newest-tap-first", "Taps are summed from the newest to the oldest.", **_convolution(_newest_tap_first)),
    layer("bias-before-the-taps", "The bias is what the taps are added to.", **_convolution(_bias_before_the_taps)),
    layer("softplus-of-the-size", "max(x, 0) and log1p of exp(-|x|).", **_decay(_softplus_of_the_size)),
    layer("softplus-to-forty", "x itself from 40 on.", **_decay(_softplus_to_forty)),
)
