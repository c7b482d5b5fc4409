"""Normalisation in standard operators; `refimpl.layers.norm` says what each computes."""

from __future__ import annotations

from export.graph import Body, Value
from export.lowerings.mlp import sigmoid, silu

GATES = {"silu": silu, "sigmoid": sigmoid}


def rms_norm(f: Body, x: Value, weight: Value | None = None, *, eps: float, zero_centred: bool = False) -> Value:
    wide = f.widen(x)
    unit = f.Div(wide, f.Sqrt(f.Add(f.ReduceMean(f.Mul(wide, wide), [-1]), eps)))
    if weight is None:
        return f.cast(unit, x.dtype)
    if zero_centred:
        return f.cast(f.Mul(unit, f.Add(f.widen(weight), 1.0)), x.dtype)
    return f.Mul(f.cast(unit, x.dtype), weight)


def gated_rms_norm(
    f: Body, x: Value, gate: Value, weight: Value, *, eps: float, activation: str = "silu", gate_first: bool = False
) -> Value:
    if gate_first:
        return rms_norm(f, _gated(f, x, gate, activation), weight, eps=eps)
    return _gated(f, rms_norm(f, x, weight, eps=eps), gate, activation)


def _gated(f: Body, x: Value, gate: Value, activation: str) -> Value:
    return f.cast(f.Mul(f.widen(x), GATES[activation](f, f.widen(gate))), x.dtype)


def layer_norm(f: Body, x: Value, weight: Value, bias: Value | None = None, *, eps: float) -> Value:
    wide = f.widen(x)
    centred = f.Sub(wide, f.ReduceMean(wide, [-1]))
    variance = f.ReduceMean(f.Mul(centred, centred), [-1])
    y = f.Mul(f.Div(centred, f.Sqrt(f.Add(variance, eps))), f.widen(weight))
    return f.cast(y if bias is None else f.Add(y, f.widen(bias)), x.dtype)


def l2_norm(f: Body, x: Value, *, eps: float) -> Value:
    wide = f.widen(x)
    return f.cast(f.Div(wide, f.Sqrt(f.Add(f.ReduceSum(f.Mul(wide, wide), [-1]), eps))), x.dtype)
