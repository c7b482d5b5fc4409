"""Normalisation over the last axis: RMSNorm, the gated RMSNorm, LayerNorm and the L2 norm."""

from __future__ import annotations

import numpy as np

from refimpl.layers.mlp import sigmoid, silu
from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_flags, check_floats, check_numbers

GATES = {"silu": silu, "sigmoid": sigmoid}


def rms_norm(x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
    """Root-mean-square normalisation.

    y = x / sqrt(mean(x²) + eps) · w          w = weight, or 1 + weight when `zero_centred`

    Shapes: x [..., D], weight [D] or absent (no gain); y as x.
    Rules:
      R1  eps is added to the mean square, inside the root.
      R2  the mean is over the last axis alone and no mean is subtracted.
      R3  a zero-centred norm with weight w equals a plain one with weight 1 + w.
      R4  without a weight the gain is 1.
    Dtype: T1  the normalised value is computed in float32.
           T2  a plain gain multiplies after the cast back to the model's format; a zero-centred gain is added to 1 and
               multiplied in float32, before the cast.
           This function computes in the dtype of x.
    Pitfalls: eps outside the root (rmsnorm-eps-outside-sqrt); weight used where 1 + weight is meant
      (gemma-norm-offset-missing), or shifted twice (zero-centred-norm-double-shift); 1 + w added in bfloat16
      (gemma-norm-one-plus-w-in-bf16); the configuration's eps replaced by a default (rmsnorm-eps-not-forwarded).
    Source: Zhang and Sennrich, arXiv:1910.07467, equation 4; Gemma (1 + w).
    """
    check("rms_norm", x=(x, "...D"), weight=(weight, "D?"))
    check_floats("rms_norm", x=x, weight=weight)
    check_numbers("rms_norm", eps=eps, at_least=0)
    check_flags("rms_norm", zero_centred=zero_centred)
    if weight is None:
        return _unit_rms(x, eps)
    if zero_centred:
        return _zero_centred(x, weight, eps)
    return _unit_rms(x, eps) * weight


@float32_inside
def _unit_rms(x: Array, eps: float) -> Array:
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + x.dtype.type(eps))


@float32_inside
def _zero_centred(x: Array, weight: Array, eps: float) -> Array:
    return _unit_rms(x, eps) * (1 + weight)


def gated_rms_norm(
    x: Array, gate: Array, weight: Array, *, eps: float, activation: str = "silu", gate_first: bool = False
) -> Array:
    """Root-mean-square normalisation with a gate, as it ends a layer of linear attention.

    y = rms_norm(x) · w · act(gate)          or, with `gate_first`, rms_norm(x · act(gate)) · w

    Shapes: x and gate [..., D], weight [D]; y as x.
    Rules:
      R1  eps, mean and gain are those of `rms_norm`, over the entries of one head.
      R2  the gate goes through the activation ("silu" or "sigmoid"), x does not.
      R3  the norm comes before the gate unless `gate_first`.
      R4  the gain is plain, also in models whose other norms are zero-centred.
    Dtype: T1  the normalised value in float32, cast, times the gain; then times the activation in float32, cast.
           This function computes in the dtype of x.
    Pitfalls: SiLU for sigmoid or the reverse (gated-norm-sigmoid-vs-silu); the gate before the norm; 1 + w.
    Source: Mamba-2, arXiv:2405.21060, section 7.1 (`gate_first`, SiLU); Qwen3-Next (SiLU); Kimi Linear (sigmoid).
    """
    check("gated_rms_norm", x=(x, "...D"), gate=(gate, "...D"), weight=(weight, "D"))
    check_floats("gated_rms_norm", x=x, gate=gate, weight=weight)
    check_numbers("gated_rms_norm", eps=eps, at_least=0)
    check_flags("gated_rms_norm", gate_first=gate_first)
    if gate.shape != x.shape:
        raise ValueError(f"gated_rms_norm: gate has shape {gate.shape} but needs {x.shape}, the shape of x")
    if activation not in GATES:
        raise ValueError(f"gated_rms_norm: activation is {activation!r} but must be 'silu' or 'sigmoid'")
    if gate_first:
        return _unit_rms(_gated(x, gate, activation), eps) * weight
    return _gated(_unit_rms(x, eps) * weight, gate, activation)


@float32_inside
def _gated(x: Array, gate: Array, activation: str) -> Array:
    return x * GATES[activation](gate)


@float32_inside
def layer_norm(x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
    """Layer normalisation.

    y = (x - mean(x)) / sqrt(var(x) + eps) · weight + bias

    Shapes: x [..., D], weight [D], bias [D] or absent; y as x.
    Rules:
      R1  the variance is the biased one: the mean of the squared deviations, divided by D and not D - 1.
      R2  eps is added to the variance, inside the root.
      R3  bias is added after the gain.
    Dtype: T1  computed in float32 as a whole and cast back once. This function computes in the dtype of x.
    Pitfalls: the unbiased variance; mean(x²) - mean(x)², which cancels in float32 when the mean is large.
    Source: Ba, Kiros and Hinton, arXiv:1607.06450, section 3.
    """
    check("layer_norm", x=(x, "...D"), weight=(weight, "D"), bias=(bias, "D?"))
    check_floats("layer_norm", x=x, weight=weight, bias=bias)
    check_numbers("layer_norm", eps=eps, at_least=0)
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + x.dtype.type(eps)) * weight
    return y if bias is None else y + bias


@float32_inside
def l2_norm(x: Array, *, eps: float) -> Array:
    """Scale each vector to length one.

    y = x / sqrt(sum(x²) + eps)

    Shapes: x [..., D]; y as x.
    Rules:
      R1  eps is added to the sum of squares, inside the root (not max(length, eps)).
      R2  the sum is not divided by D.
    Dtype: T1  computed in float32 and cast back once. This function computes in the dtype of x.
    Pitfalls: max(length, eps) instead of the sum under the root (gdn-l2norm-max-eps); the mean for the sum
      (gdn-l2norm-mean-instead-of-sum); an RMSNorm's eps not scaled by D (kda-l2norm-via-rmsnorm-eps-not-rescaled).
    Source: flash-linear-attention `l2norm`; Qwen3-Next.
    """
    check("l2_norm", x=(x, "...D"))
    check_floats("l2_norm", x=x)
    check_numbers("l2_norm", eps=eps, at_least=0)
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
