"""Norms that are wrong in eps, gain, order or rounding."""

from __future__ import annotations

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import FORMATS, Array

wide = computing_in(np.float32)


@wide
def eps_outside_the_root(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    y = x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + x.dtype.type(eps))
    return y if weight is None else y * (1 + weight if zero_centred else weight)


@wide
def another_eps(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    return layers.rms_norm(x, weight, eps=1e-6, zero_centred=zero_centred)


@wide
def shift_missing(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    return layers.rms_norm(x, weight, eps=eps)


@wide
def shifted_twice(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    return layers.rms_norm(x, weight if weight is None or not zero_centred else 1 + weight, eps=eps, zero_centred=zero_centred)


def shift_in_bfloat16(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    if weight is None or not zero_centred:
        return _rms_norm(x, weight, eps=eps, zero_centred=zero_centred)
    gain = (1 + weight.astype(np.float32)).astype(FORMATS["bfloat16"]).astype(weight.dtype)
    return _rms_norm(x, gain, eps=eps)


def rounded_before_the_gain(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    normed = _rms_norm(x, eps=eps).astype(FORMATS["bfloat16"]).astype(x.dtype)
    return normed if weight is None else _gain(normed, 1 + weight if zero_centred else weight)


def written_into_the_input(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    x[...] = _rms_norm(x, eps=eps)
    return x.copy() if weight is None else _gain(x, 1 + weight if zero_centred else weight)


@wide
def _rms_norm(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    return layers.rms_norm(x, weight, eps=eps, zero_centred=zero_centred)


@wide
def _gain(x: Array, gain: Array) -> Array:
    return x * gain


@wide
def gate_in_bfloat16(
    x: Array, gate: Array, weight: Array, *, eps: float, activation: str = "silu", gate_first: bool = False
) -> Array:
    """The activated gate is rounded before it multiplies."""
    activated = (gate if activation == "silu" else gate.dtype.type(1)) * layers.sigmoid(gate)
    rounded = activated.astype(FORMATS["bfloat16"]).astype(gate.dtype)
    return layers.rms_norm(x * rounded, weight, eps=eps) if gate_first else layers.rms_norm(x, weight, eps=eps) * rounded


@wide
def unbiased_variance(x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + x.dtype.type(eps)) * weight
    return y if bias is None else y + bias


@wide
def bias_before_gain(x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
    y = layers.layer_norm(x, np.ones_like(weight), eps=eps)
    return y * weight if bias is None else (y + bias) * weight


@wide
def greater_of_length_and_eps(x: Array, *, eps: float) -> Array:
    return x / np.maximum(np.sqrt(np.sum(x * x, axis=-1, keepdims=True)), x.dtype.type(eps))


@wide
def mean_for_sum(x: Array, *, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))


MUTANTS = (
    layer("rmsnorm-eps-outside-sqrt", "rms_norm", eps_outside_the_root, "eps is added to the root and not inside of it."),
    layer("rmsnorm-eps-not-forwarded", "rms_norm", another_eps, "eps is a default of the class, whatever the model's is."),
    layer(
        "gemma-norm-offset-missing",
        "rms_norm",
        shift_missing,
        "A gain that is stored around 0 multiplies as it is.",
    ),
    layer(
        "zero-centred-norm-double-shift",
        "rms_norm",
        shifted_twice,
        "The 1 of a gain that is stored around 0 is added by the loader and by the norm.",
        "zero-centred-norm-mtp-only",
    ),
    layer(
        "gemma-norm-one-plus-w-in-bf16",
        "rms_norm",
        shift_in_bfloat16,
        "The sum of 1 and the gain is rounded to bfloat16.",
    ),
    layer(
        "gemma2-norm-cast-lmdeploy",
        "rms_norm",
        rounded_before_the_gain,
        "The normed values are rounded to bfloat16 before the gain multiplies them, in the order of another family.",
    ),
    layer(
        "rmsnorm-inplace-corrupts-residual",
        "rms_norm",
        written_into_the_input,
        "The normed values are written over the input, which the residual still needs.",
    ),
    layer(
        "gated-rmsnorm-cast-points",
        "gated_rms_norm",
        gate_in_bfloat16,
        "The activated gate is rounded to bfloat16 before it multiplies.",
    ),
    layer("unbiased-variance", "layer_norm", unbiased_variance, "The variance is divided by one less than the width."),
    layer("bias-before-gain", "layer_norm", bias_before_gain, "The gain multiplies the bias as well."),
    layer(
        "gdn-l2norm-max-eps",
        "l2_norm",
        greater_of_length_and_eps,
        "Vectors are divided by the greater of their length and eps.",
        "gdn-l2norm-hf-misaligned-with-fla",
    ),
    layer("gdn-l2norm-mean-instead-of-sum", "l2_norm", mean_for_sum, "The mean of the squares stands for their sum."),
)
