"""Activations and gates that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, Mutant, layer
from refimpl import layers
from refimpl.numerics import FORMATS, Array

wide = computing_in(np.float32)


@wide
def other_gelu(x: Array, *, approximate: str = "none") -> Array:
    return layers.gelu(x, approximate="none" if approximate == "tanh" else "tanh")


@wide
def other_geglu(gate: Array, up: Array, *, approximate: str = "none") -> Array:
    return layers.geglu(gate, up, approximate="none" if approximate == "tanh" else "tanh")


@wide
def gate_and_up_exchanged(gate: Array, up: Array) -> Array:
    return layers.swiglu(up, gate)


@wide
def quick_gelu(x: Array) -> Array:
    return x / (1 + np.exp(-x.dtype.type(1.702) * x))


def _one_gelu(approximate: str) -> dict[str, Function]:
    """Every GELU in one form."""

    @wide
    def gelu(x: Array, **options: Any) -> Array:
        return layers.gelu(x, approximate=approximate)

    @wide
    def geglu(gate: Array, up: Array, **options: Any) -> Array:
        return layers.geglu(gate, up, approximate=approximate)

    @wide
    def routed_experts(*values: Any, activation: str = "silu", **options: Any) -> Array:
        form = {"none": "gelu", "tanh": "gelu_tanh"}[approximate] if activation.startswith("gelu") else activation
        return layers.routed_experts(*values, activation=form, **options)

    return {"gelu": gelu, "geglu": geglu, "routed_experts": routed_experts}


@wide
def gate_clamped_on_both_sides(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    return layers.clamped_swiglu(np.maximum(gate, gate.dtype.type(-limit)), up, alpha=alpha, limit=limit)


@wide
def limit_dropped(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    return layers.clamped_swiglu(gate, up, alpha=alpha, limit=1e4)


@wide
def alpha_dropped(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    return layers.clamped_swiglu(gate, up, alpha=1.0, limit=limit)


@wide
def constants_of_the_release(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    return layers.clamped_swiglu(gate, up, alpha=1.702, limit=7.0)


@wide
def alpha_in_bfloat16(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    return layers.clamped_swiglu(gate, up, alpha=float(FORMATS["bfloat16"].type(alpha)), limit=limit)


@wide
def one_not_added(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    bound = gate.dtype.type(limit)
    gate = np.minimum(gate, bound)
    return gate * layers.sigmoid(gate.dtype.type(alpha) * gate) * np.clip(up, -bound, bound)


@wide
def one_added_before_the_clamp(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    gate = np.minimum(gate, gate.dtype.type(limit))
    return gate * layers.sigmoid(gate.dtype.type(alpha) * gate) * np.clip(up + 1, -limit, limit)


@wide
def gate_left_out(x: Array, gate: Array) -> Array:
    return x + 0 * gate


@wide
def gate_without_sigmoid(x: Array, gate: Array) -> Array:
    return x * gate


@wide
def gate_of_the_value(x: Array, gate: Array) -> Array:
    """The gate's memory holds the value by then."""
    return x * layers.sigmoid(x)


MUTANTS = (
    Mutant(
        id="gelu-approx-breaks-exact-models",
        says="One approximate kernel serves every GELU.",
        functions=_one_gelu("tanh"),
    ),
    Mutant(
        id="gelu-exact-for-gelu-new",
        says="The error function serves every GELU, those defined by tanh too.",
        functions=_one_gelu("none"),
    ),
    layer("other-form-of-gelu", "gelu", other_gelu, "The two forms of GELU are exchanged."),
    layer("other-form-of-gelu-in-geglu", "geglu", other_geglu, "The two forms of GELU are exchanged in GeGLU."),
    layer(
        "swiglu-gate-up-swapped-in-the-mlp",
        "swiglu",
        gate_and_up_exchanged,
        "The activation acts on up and not on the gate.",
        "swiglu-gate-up-swapped",
    ),
    layer("quick-gelu-for-silu", "silu", quick_gelu, "The sigmoid is taken of 1.702 x."),
    layer(
        "swiglu-gate-clamped-symmetrically",
        "clamped_swiglu",
        gate_clamped_on_both_sides,
        "The gate has a lower bound as well.",
    ),
    layer("limit-dropped", "clamped_swiglu", limit_dropped, "Nothing is clamped."),
    layer(
        "swiglu-alpha-dropped-on-dtype-path",
        "clamped_swiglu",
        alpha_dropped,
        "alpha does not reach the kernel, which takes 1.",
    ),
    layer(
        "swiglu-constants-hardcoded-bf16",
        "clamped_swiglu",
        constants_of_the_release,
        "alpha and limit are constants of one release.",
    ),
    layer(
        "alpha-in-bfloat16",
        "clamped_swiglu",
        alpha_in_bfloat16,
        "alpha is rounded to bfloat16.",
        "swiglu-constants-hardcoded-bf16",
    ),
    layer("1-not-added", "clamped_swiglu", one_not_added, "up is not raised by 1."),
    layer("1-added-before-the-clamp", "clamped_swiglu", one_added_before_the_clamp, "up is raised by 1, then clamped."),
    layer(
        "shared-gate-removed",
        "sigmoid_gate",
        gate_left_out,
        "The shared expert's gate is not applied.",
        "shared-gate-bypassed-quantised",
    ),
    layer("gate-without-sigmoid", "sigmoid_gate", gate_without_sigmoid, "The gate's logit itself multiplies."),
    layer(
        "gate-overwritten-by-the-value",
        "sigmoid_gate",
        gate_of_the_value,
        "The gate is read from memory that holds the value by then.",
    ),
)
