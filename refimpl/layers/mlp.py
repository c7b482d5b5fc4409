"""Feed-forward pieces: the linear map, activations, gated activations and gates."""

from __future__ import annotations

import math

import numpy as np

from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_floats, check_numbers

_erf = np.vectorize(math.erf, otypes=[np.float64])


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Affine map with the weight as checkpoints store it.

    y = x Wᵀ + b

    Shapes: x [..., I], weight [O, I], bias [O] or absent; y [..., O].
    Rules: R1  weight rows are outputs: y_o = sum over i of x_i weight_oi.
    Dtype: T1  products accumulate in float32 and are cast to the model's format before the bias. This function computes
           in the dtype of x.
    Pitfalls: a transposed weight where O = I; a bias dropped (lowrank-module-drops-bias) or invented
      (o-proj-spurious-bias).
    """
    sizes = check("linear", x=(x, "...I"), weight=(weight, "OI"), bias=(bias, "O?"))
    check_floats("linear", x=x, weight=weight, bias=bias)
    y = (x.reshape(-1, sizes["I"]) @ weight.T).reshape(*x.shape[:-1], sizes["O"])
    return y if bias is None else y + bias


@float32_inside
def silu(x: Array) -> Array:
    """Sigmoid linear unit: y = x / (1 + e^(-x)).

    Shapes: x of any shape; y as x.
    Rules: R1  finite for any finite x: y -> 0 as x -> -inf and y -> x as x -> inf.
    Dtype: T1  float32 inside, cast back once. This function computes in the dtype of x.
    Source: Elfwing et al., arXiv:1702.03118; Ramachandran et al., arXiv:1710.05941 (Swish with β = 1).
    """
    check("silu", x=(x, "..."))
    check_floats("silu", x=x)
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, -0
        return x / (1 + np.exp(-x))


@float32_inside
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """Gaussian error linear unit.

    y = x/2 · (1 + erf(x / √2))                              approximate "none"
    y = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))           approximate "tanh"

    Shapes: x of any shape; y as x.
    Rules: R1  the two forms are different functions (up to 5e-4 apart): a model uses the one it was trained with.
    Dtype: T1  float32 inside, cast back once. This function computes in the dtype of x.
    Pitfalls: one form for the other (gelu-exact-for-gelu-new, gelu-approx-breaks-exact-models).
    Source: Hendrycks and Gimpel, arXiv:1606.08415; GPT-2 (tanh).
    """
    check("gelu", x=(x, "..."))
    check_floats("gelu", x=x)
    half = x.dtype.type(0.5)
    if approximate == "none":
        # erfc would spare the cancellation for x << 0, but releases compute 1 + erf, and budgets follow the releases.
        return half * x * (1 + _erf(x / math.sqrt(2)).astype(x.dtype))
    if approximate == "tanh":
        with np.errstate(over="ignore"):  # x³ = ±inf gives the right limit, tanh = ±1
            return half * x * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3)))
    raise ValueError(f"gelu: approximate is {approximate!r} but must be 'none' or 'tanh'")


def swiglu(gate: Array, up: Array) -> Array:
    """SiLU-gated unit: y = silu(gate) · up.

    Shapes: gate and up [..., F]; y as gate.
    Rules: R1  the gate goes through the activation, the other factor does not.
    Dtype: T1  silu is cast to the model's format before the product. This function computes in the dtype of gate.
    Pitfalls: gate and up exchanged (swiglu-gate-up-swapped).
    Source: Shazeer, arXiv:2002.05202, equation 6.
    """
    _check_pair("swiglu", gate, up)
    return silu(gate) * up


def geglu(gate: Array, up: Array, *, approximate: str = "none") -> Array:
    """GELU-gated unit: y = gelu(gate) · up.

    Shapes, rules, dtype: as `swiglu`; approximate as in `gelu`.
    Pitfalls: one form of GELU for the other (gelu-approx-breaks-exact-models).
    Source: Shazeer, arXiv:2002.05202, equation 6; Gemma (tanh).
    """
    _check_pair("geglu", gate, up)
    return gelu(gate, approximate=approximate) * up


def clamped_swiglu(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    """SwiGLU with clamped factors, a steeper sigmoid and a shifted second factor.

    g = min(gate, limit)       u = clip(up, -limit, limit)       y = g σ(alpha g) (u + 1)

    Shapes: gate and up [..., F]; y as gate.
    Rules:
      R1  the gate is clamped from above alone, the other factor on both sides.
      R2  both are clamped before anything else.
      R3  1 is added to the clamped factor.
    Dtype: T1  every step in the model's format, the sigmoid in float32. This function computes in the dtype of gate.
    Pitfalls: the gate clamped on both sides (swiglu-gate-clamped-symmetrically); limit or alpha dropped
      (swiglu-limit-not-passed-mxfp4-hf, swiglu-alpha-dropped-on-dtype-path, swiglu-constants-hardcoded-bf16).
    Source: gpt-oss release (alpha 1.702, limit 7).
    """
    _check_pair("clamped_swiglu", gate, up)
    check_numbers("clamped_swiglu", alpha=alpha)
    check_numbers("clamped_swiglu", limit=limit, above=0)
    bound = gate.dtype.type(limit)
    clamped_gate = np.minimum(gate, bound)
    shifted = np.maximum(np.minimum(up, bound), -bound) + gate.dtype.type(1)
    return clamped_gate * sigmoid(clamped_gate * gate.dtype.type(alpha)) * shifted


@float32_inside
def sigmoid(x: Array) -> Array:
    """The logistic function: y = 1 / (1 + e^(-x)).

    Shapes: x of any shape; y as x.
    Rules: R1  finite for any finite x.
    Dtype: T1  float32 inside, cast back once. This function computes in the dtype of x.
    """
    check("sigmoid", x=(x, "..."))
    check_floats("sigmoid", x=x)
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        return 1 / (1 + np.exp(-x))


def sigmoid_gate(x: Array, gate: Array) -> Array:
    """A value let through as far as a gate is open: y = σ(gate) · x.

    Shapes: x [..., D], gate [..., 1] (one a token) or as x; y as x.
    Rules: R1  the gate goes through the sigmoid, x does not.
    Dtype: T1  the sigmoid is cast to the model's format before the product. This function computes in the dtype of x.
    Pitfalls: the gate left out (shared-gate-removed, shared-gate-bypassed-quantised) or computed from x in place of the
      layer's input.
    Source: Qwen2-MoE and Qwen3-Next releases (gated shared expert, gated attention).
    """
    check("sigmoid_gate", x=(x, "...D"), gate=(gate, "..."))
    check_floats("sigmoid_gate", x=x, gate=gate)
    if gate.shape not in (x.shape, (*x.shape[:-1], 1)):
        raise ValueError(f"sigmoid_gate: gate has shape {gate.shape} but needs {x.shape} or {(*x.shape[:-1], 1)}")
    return sigmoid(gate) * x


def _check_pair(layer: str, gate: Array, up: Array) -> None:
    check(layer, gate=(gate, "..."), up=(up, "..."))
    check_floats(layer, gate=gate, up=up)
    if gate.shape != up.shape:
        raise ValueError(f"{layer}: up has shape {up.shape} but needs {gate.shape}, the shape of gate")
