"""The linear map and activations in standard operators; `refimpl.layers.mlp` says what each computes."""

from __future__ import annotations

import math

from export.graph import Body, Value
from export.lowerings.erf import erf


def linear(f: Body, x: Value, weight: Value, bias: Value | None = None) -> Value:
    # Gemm reads [out, in] weights as they are stored, where MatMul would need a transposed copy of each.
    if len(x.shape) == 2:
        return f.Gemm(x, weight, bias, transB=1)
    rows = f.Gemm(f.Flatten(x, axis=-1), weight, bias, transB=1)
    y = f.Reshape(rows, f.Concat(f.Shape(x, end=-1), f.Shape(weight, end=1), axis=0))
    return f.known(y, [*x.shape[:-1], weight.shape[0]])


def silu(f: Body, x: Value) -> Value:
    wide = f.widen(x)
    return f.cast(f.Div(wide, f.Add(f.Exp(f.Neg(wide)), 1.0)), x.dtype)  # not by Sigmoid: see `logistic`


def gelu(f: Body, x: Value, *, approximate: str = "none") -> Value:
    wide = f.widen(x)
    if approximate == "tanh":
        cubic = f.Add(wide, f.Mul(f.Mul(f.Mul(wide, wide), wide), 0.044715))
        bell = f.Tanh(f.Mul(cubic, math.sqrt(2 / math.pi)))
    else:
        bell = erf(f, f.Div(wide, math.sqrt(2)))
    return f.cast(f.Mul(f.Mul(wide, 0.5), f.Add(bell, 1.0)), x.dtype)


def swiglu(f: Body, gate: Value, up: Value) -> Value:
    return f.Mul(silu(f, gate), up)


def geglu(f: Body, gate: Value, up: Value, *, approximate: str = "none") -> Value:
    return f.Mul(gelu(f, gate, approximate=approximate), up)


def sigmoid(f: Body, x: Value) -> Value:
    return f.cast(logistic(f, f.widen(x)), x.dtype)


def logistic(f: Body, x: Value) -> Value:
    """σ(x) in the format of x. onnxruntime's Sigmoid stops short of 0: far below, it is off by orders of magnitude."""
    return f.Reciprocal(f.Add(f.Exp(f.Neg(x)), 1.0))


def sigmoid_gate(f: Body, x: Value, gate: Value) -> Value:
    return f.Mul(sigmoid(f, gate), x)


def clamped_swiglu(f: Body, gate: Value, up: Value, *, alpha: float, limit: float) -> Value:
    clamped_gate = f.Min(gate, limit)
    shifted = f.Add(f.Max(f.Min(up, limit), -limit), 1.0)
    return f.Mul(f.Mul(clamped_gate, sigmoid(f, f.Mul(clamped_gate, alpha))), shifted)
