"""Feed-forward pieces and bounds: square matrices, both forms of GELU where they part, inputs around cap and clamp."""

from __future__ import annotations

from typing import Any

from conformance.family import Family, Inputs, Values, edge
from refimpl.numerics import Array

# Where the forms of GELU differ by more than their values' rounding, also in bfloat16.
GELU_FORMS_PART = (-4.4, -3.6)


def linear(values: Values, *, front: tuple[int, ...], inputs: int, outputs: int, bias: bool = False) -> Inputs:
    """x [*front, I]."""
    arguments = {
        "x": values.standard_normal((*front, inputs)),
        "weight": values.standard_normal((outputs, inputs)) / inputs**0.5,
    }
    if bias:
        arguments["bias"] = values.standard_normal(outputs)
    return Inputs(arguments, {})


def pointwise(values: Values, *, shape: tuple[int, ...], low: float = -4.0, high: float = 4.0, **options: Any) -> Inputs:
    """x spread evenly between two bounds, the upper one among them."""
    return Inputs({"x": _spread(values, shape, low, high)}, options)


def gated(values: Values, *, shape: tuple[int, ...], low: float = -4.0, high: float = 4.0, **options: Any) -> Inputs:
    """The gate spread evenly between two bounds; the other factor away from 0, so that it hides nothing."""
    up = values.uniform(0.5, 2, shape) * values.choice([-1, 1], shape)
    return Inputs({"gate": _spread(values, shape, low, high), "up": up}, options)


def clamped(values: Values, *, shape: tuple[int, ...], alpha: float, limit: float) -> Inputs:
    """Both factors up to two limits away from 0, on both sides."""
    gate, up = (limit * values.uniform(-2, 2, shape) for _ in range(2))
    return Inputs({"gate": gate, "up": up}, {"alpha": alpha, "limit": limit})


def sigmoid_gate(values: Values, *, shape: tuple[int, ...], wide: bool = False) -> Inputs:
    """A gate of size 2 a token, or (wide) an entry."""
    gate = values.uniform(-4, 4, shape if wide else (*shape[:-1], 1))
    return Inputs({"x": values.standard_normal(shape), "gate": gate}, {})


def _spread(values: Values, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Where activations fade out they are known to the precision of their large values, so one of these is always there."""
    x = values.uniform(low, high, shape)
    x.flat[0] = high
    return x


def soft_cap(values: Values, *, shape: tuple[int, ...], cap: float, reach: float) -> Inputs:
    """x up to `reach` caps away from 0, on both sides."""
    return Inputs({"x": cap * values.uniform(-reach, reach, shape)}, {"cap": cap})


SHAPE = (2, 5, 24)
LOW, HIGH = GELU_FORMS_PART
FAMILIES = (
    Family(
        function="linear",
        build=linear,
        axes=("",),
        edges=(
            edge("plain", "any", "b2t5i24o7", "R1", front=(2, 5), inputs=24, outputs=7),
            edge("square", "any", "t5i8o8", "R1", front=(5,), inputs=8, outputs=8),
            edge("bias", "any", "b2t5i8o11", "R1", front=(2, 5), inputs=8, outputs=11, bias=True),
            edge("one_token", "decode", "b1t1i96o5", "R1", front=(1, 1), inputs=96, outputs=5, bias=True),
        ),
    ),
    Family(
        function="silu",
        build=pointwise,
        axes=("",),
        edges=(
            edge("around_zero", "any", "b2t5f24", shape=SHAPE),
            edge("large", "any", "t5f7", "R1", shape=(5, 7), low=-200.0, high=200.0),
        ),
    ),
    Family(
        function="gelu",
        build=pointwise,
        axes=("",),
        edges=(
            edge("erf", "any", "b2t5f24", "R1", shape=SHAPE),
            edge("tanh", "any", "b2t5f24", "R1", shape=SHAPE, approximate="tanh"),
            edge("erf_tail", "any", "b2t5f24", "R1", shape=SHAPE, low=LOW, high=HIGH),
            edge("tanh_tail", "any", "b2t5f24", "R1", shape=SHAPE, low=LOW, high=HIGH, approximate="tanh"),
        ),
    ),
    Family(
        function="swiglu",
        build=gated,
        axes=("",),
        edges=(
            edge("plain", "any", "b2t5f24", "R1", shape=SHAPE),
            edge("one_token", "decode", "t1f7", "R1", shape=(1, 7)),
        ),
    ),
    Family(
        function="geglu",
        build=gated,
        axes=("",),
        edges=(
            edge("erf", "any", "b2t5f24", "R1", shape=SHAPE),
            edge("tanh", "any", "b2t5f24", "R1", shape=SHAPE, approximate="tanh"),
            edge("erf_tail", "any", "b2t5f24", shape=SHAPE, low=LOW, high=HIGH),
            edge("tanh_tail", "any", "b2t5f24", shape=SHAPE, low=LOW, high=HIGH, approximate="tanh"),
        ),
    ),
    Family(
        function="clamped_swiglu",
        build=clamped,
        axes=("",),
        edges=(
            edge("released", "any", "b2t5f24", "R1", "R2", shape=SHAPE, alpha=1.702, limit=7.0),
            edge("small_limit", "any", "b2t5f24", "R1", "R3", shape=SHAPE, alpha=1.702, limit=1.0),
            edge("other_alpha", "any", "t5f7", "R2", shape=(5, 7), alpha=0.6, limit=2.5),
            edge("one_token", "decode", "t1f7", "R3", shape=(1, 7), alpha=1.702, limit=1.5),
        ),
    ),
    Family(
        function="sigmoid",
        build=pointwise,
        axes=("",),
        edges=(
            edge("around_zero", "any", "b2t5f24", shape=SHAPE),
            edge("large", "any", "t5f7", "R1", shape=(5, 7), low=-200.0, high=200.0),
        ),
    ),
    Family(
        function="sigmoid_gate",
        build=sigmoid_gate,
        axes=("",),
        edges=(
            edge("one_a_token", "any", "b2t5d24", "R1", shape=SHAPE),
            edge("one_an_entry", "any", "b2t5d24", "R1", shape=SHAPE, wide=True),
            edge("one_token", "decode", "b1t1d7", "R1", shape=(1, 1, 7)),
        ),
    ),
    Family(
        function="soft_cap",
        build=soft_cap,
        axes=("",),
        edges=(
            edge("around_cap", "any", "b2t5f24", "R1", shape=SHAPE, cap=30.0, reach=2.0),
            edge("far", "any", "t5f7", "R1", shape=(5, 7), cap=5.0, reach=40.0),
        ),
    ),
)
