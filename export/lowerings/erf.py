"""The error function, which onnxruntime has in float32 alone."""

from __future__ import annotations

import math

import numpy as np

from export.graph import Body, Value
from refimpl.numerics import Array

POINTS = 48  # more change nothing in float64
SATURATED = 6.0  # erf(6) is 1 in float64, and so is the share of the integral up to 6


def erf(f: Body, x: Value) -> Value:
    """erf(x) in the format of x; in float64 from an integral by quadrature, with an error of about one rounding.

    1 - erf(x) = 2/√π e^(-x²) (integral over s from 0 to infinity of e^(-s² - 2xs))          x >= 0
    """
    if x.dtype != np.float64:
        return f.Erf(x)
    points, weights = _fejer(POINTS)
    s = (points + 1) / 2 * SATURATED
    size = f.Min(f.Abs(x), SATURATED)
    exponents = f.Neg(f.Mul(f.Add(f.Mul(f.Unsqueeze(size, [-1]), 2.0), s), s))
    integral = f.ReduceSum(f.Mul(f.Exp(exponents), weights * SATURATED / math.sqrt(math.pi)), [-1], keepdims=0)
    complement = f.Mul(f.Exp(f.Neg(f.Mul(size, size))), integral)
    return f.Mul(f.Sign(x), f.Sub(1.0, complement))


def _fejer(count: int) -> tuple[Array, Array]:
    """Points and weights of Fejér's first rule on [-1, 1]: closed forms, exact where NumPy's Gauss-Legendre weights are not.

    Source: L. Fejér, Mathematische Zeitschrift 37 (1933); J. Waldvogel, BIT 46 (2006), section 2.
    """
    angles = (2 * np.arange(count) + 1) * np.pi / (2 * count)
    orders = np.arange(1, count // 2 + 1)
    sums = [math.fsum(np.cos(2 * orders * angle) / (4 * orders**2 - 1)) for angle in angles]
    return np.cos(angles), 2 / count * (1 - 2 * np.array(sums))
