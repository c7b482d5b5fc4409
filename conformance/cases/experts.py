"""Experts: every matrix and bias of its own, factors beyond the clamp on both sides, experts that nobody or everybody chose."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.family import Edge, Family, Inputs, Values, edge
from refimpl.numerics import Array


def routed_experts(
    values: Values,
    *,
    front: tuple[int, ...],
    width: int,
    inner: int,
    experts: int,
    top_k: int,
    choice: str = "any",
    biases: tuple[str, ...] = (),
    shut: bool = False,
    activation: str = "silu",
    **options: Any,
) -> Inputs:
    """Factors of size 2 before the activation.

    choice: any; idle, where nobody chooses the first and the last expert; or same, where all choose the same first.
    biases: those among gate_bias, up_bias and down_bias that there are; the others are absent, or 0 where one follows.
    shut: gates, by their bias, around -4, where the forms of GELU part.
    """
    shapes = {"gate_bias": inner, "up_bias": inner, "down_bias": width}
    arguments: dict[str, Any] = {
        "x": values.standard_normal((*front, width)),
        "indices": _indices(values, front, experts, top_k, choice),
        "weights": values.uniform(0.2, 1.2, (*front, top_k)),
        "gate": 2 * values.standard_normal((experts, inner, width)) / width**0.5,
        "up": 2 * values.standard_normal((experts, inner, width)) / width**0.5,
        "down": values.standard_normal((experts, width, inner)) / inner**0.5,
    }
    for name, size in shapes.items() if biases else ():
        arguments[name] = values.standard_normal((experts, size)) * (name in biases)
    if shut:
        arguments["gate"], arguments["gate_bias"] = arguments["gate"] / 20, -4 + arguments["gate_bias"] / 10
    return Inputs(arguments, {"activation": activation, **options})


def _indices(values: Values, front: tuple[int, ...], experts: int, top_k: int, choice: str) -> Array:
    """[*front, A], the experts of a token all different and in any order."""
    if choice == "idle":
        return 1 + _indices(values, front, experts - 2, top_k, "any")
    indices = np.argsort(values.random((*front, experts)), axis=-1)
    if choice == "same":
        favourite = np.argsort(indices == experts // 2, axis=-1, kind="stable")[..., -1:]
        first = indices[..., :1].copy()
        np.put_along_axis(indices, favourite, first, axis=-1)
        indices[..., 0] = experts // 2
    return indices[..., :top_k]


SIZES = {"front": (2, 4), "width": 12, "inner": 9, "experts": 5, "top_k": 3}
SIZE = "b2t4d12f9e5a3"
ALL_BIASES = ("gate_bias", "up_bias", "down_bias")
CLAMPED = {"activation": "clamped_swiglu", "alpha": 1.702, "limit": 1.25}


def _edges() -> tuple[Edge, ...]:
    return (
        edge("plain", "any", SIZE, "R1", "R6", **SIZES),
        edge("biases", "any", SIZE, "R1", "R3", biases=ALL_BIASES, **SIZES),
        edge("down_bias", "any", SIZE, "R1", biases=("down_bias",), **SIZES),
        edge("gelu", "any", SIZE, "R3", activation="gelu", biases=("gate_bias", "up_bias"), **SIZES),
        edge("gelu_tanh", "any", SIZE, "R3", activation="gelu_tanh", **SIZES),
        edge("gelu_tail", "any", SIZE, "R3", activation="gelu", biases=("gate_bias",), shut=True, **SIZES),
        edge("clamped", "any", SIZE, "R3", biases=ALL_BIASES, **CLAMPED, **SIZES),
        edge("clamped_other", "any", SIZE, "R3", **{**CLAMPED, "alpha": 1.0, "limit": 0.75}, **SIZES),
        edge("scale_input", "any", SIZE, "R2", scale_input=True, **SIZES),
        edge("scale_input_biases", "any", SIZE, "R2", scale_input=True, biases=ALL_BIASES, **SIZES),
        edge("scale_input_one", "any", "b2t4d12f9e5a1", "R2", scale_input=True, **{**SIZES, "top_k": 1}),
        edge("idle_experts", "any", SIZE, "R7", choice="idle", biases=ALL_BIASES, **SIZES),
        edge("all_chosen", "any", "b2t4d12f9e3a3", "R5", biases=ALL_BIASES, **{**SIZES, "experts": 3}),
        edge("same_expert", "any", "b2t4d12f9e5a2", "R6", choice="same", **{**SIZES, "top_k": 2}),
        edge("one_of_one", "any", "b2t4d12f9e1a1", "R5", **{**SIZES, "experts": 1, "top_k": 1}),
        edge("square", "any", "b2t4d8f8e5a3", "R1", **{**SIZES, "width": 8, "inner": 8}),
        edge("one_token", "decode", "t1d12f9e5a3", "R7", biases=ALL_BIASES, **{**SIZES, "front": (1,)}),
    )


FAMILIES = (Family(function="routed_experts", build=routed_experts, axes=("",), edges=_edges()),)
