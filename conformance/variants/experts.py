"""Routed experts in other orders: by token, by slot, sorted, renumbered, fused; combined in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.backends import numpy as specification
from conformance.variants.variant import float32, layer, rounded
from refimpl import layers
from refimpl.numerics import Array

Matrices = tuple[Array, Array, Array]
Biases = tuple[Array | None, Array | None, Array | None]


def _activated(gate: Array, up: Array, activation: str, constants: dict[str, Any]) -> Array:
    match activation:
        case "silu":
            return layers.swiglu(gate, up)
        case "clamped_swiglu":
            return layers.clamped_swiglu(gate, up, **constants)
    return layers.geglu(gate, up, approximate="tanh" if activation == "gelu_tanh" else "none")


def _expert(x: Array, e: Any, matrices: Matrices, biases: Biases, activation: str, constants: dict[str, Any]) -> Array:
    gate_bias, up_bias, down_bias = (None if bias is None else bias[e] for bias in biases)
    gate, up = layers.linear(x, matrices[0][e], gate_bias), layers.linear(x, matrices[1][e], up_bias)
    return layers.linear(_activated(gate, up, activation, constants), matrices[2][e], down_bias)


def _fused_expert(x: Array, e: Any, matrices: Matrices, biases: Biases, activation: str, constants: dict[str, Any]) -> Array:
    """Gate and up are rows of one matrix, in turn."""
    both = np.stack([matrices[0][e], matrices[1][e]], axis=1).reshape(-1, x.shape[-1])
    beside = [np.zeros_like(both[: len(both) // 2, 0]) if bias is None else bias[e] for bias in biases[:2]]
    y = layers.linear(x, both, np.stack(beside, axis=1).reshape(-1))
    down_bias = None if biases[2] is None else biases[2][e]
    return layers.linear(_activated(y[..., 0::2], y[..., 1::2], activation, constants), matrices[2][e], down_bias)


def _by_slot(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    *,
    activation: str = "silu",
    scale_input: bool = False,
    **constants: Any,
) -> Array:
    y = np.zeros_like(x)
    for token in np.ndindex(x.shape[:-1]):
        for slot in reversed(range(indices.shape[-1])):
            share, row = weights[token][slot], x[token][None]
            given = row * share if scale_input else row
            biases = (gate_bias, up_bias, down_bias)
            output = _expert(given, indices[token][slot], (gate, up, down), biases, activation, constants)[0]
            y[token] = y[token] + (output if scale_input else output * share)
    return y


@float32
def _sorted_by_expert(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    *,
    activation: str = "silu",
    scale_input: bool = False,
    **constants: Any,
) -> Array:
    """Rows of all slots are sorted by expert, a fused product each, and put back slot by slot."""
    slots = indices.shape[-1]
    order = np.argsort(indices.reshape(-1), kind="stable")
    shares = weights.reshape(-1, 1)[order]
    rows = np.repeat(x.reshape(-1, x.shape[-1]), slots, axis=0)[order]
    chosen, outputs = indices.reshape(-1)[order], np.zeros_like(rows)
    for expert in np.unique(chosen):
        mine = (chosen == expert) & (shares[:, 0] != 0)
        given = rows[mine] * shares[mine] if scale_input else rows[mine]
        biases = (gate_bias, up_bias, down_bias)
        output = _fused_expert(given, expert, (gate, up, down), biases, activation, constants)
        outputs[mine] = output if scale_input else output * shares[mine]
    back = outputs[np.argsort(order, kind="stable")]
    return back.reshape(*x.shape[:-1], slots, x.shape[-1]).sum(axis=-2)


def _combined_in_float32(
    x: Array, indices: Array, weights: Array, *matrices: Any, scale_input: bool = False, **options: Any
) -> Array:
    """Each expert in the tested format, its outputs weighed and summed in float32 and rounded once."""
    wide = np.float64 if x.dtype == np.float64 else np.float32
    y = np.zeros(x.shape, wide)
    for slot in range(indices.shape[-1]):
        one = indices[..., slot : slot + 1]
        share = weights[..., slot : slot + 1]
        if scale_input:
            y += specification.routed_experts(x, one, share, *matrices, scale_input=True, **options).astype(wide)
        else:
            output = specification.routed_experts(x, one, np.ones_like(share), *matrices, **options)
            y += output.astype(wide) * share.astype(wide)
    return y.astype(x.dtype)


@rounded
def _renumbered(x: Array, indices: Array, weights: Array, *matrices: Any, **options: Any) -> Array:
    """The experts and the slots in the other order."""
    turned: list[Any] = [None if each is None else each[::-1] for each in matrices]
    return layers.routed_experts(x, len(matrices[0]) - 1 - indices[..., ::-1], weights[..., ::-1], *turned, **options)


VARIANTS = (
    layer("experts-slot-by-slot", "One token and one slot after the other, in float32.", routed_experts=float32(_by_slot)),
    layer("experts-slot-by-slot-rounded", "The same, every step rounded.", routed_experts=rounded(_by_slot)),
    layer(
        "experts-combined-in-float32", "Rounded outputs, weighed and summed in float32.", routed_experts=_combined_in_float32
    ),
    layer(
        "experts-sorted-and-fused",
        "Tokens are sorted by expert; gate and up are one matrix with rows in turn.",
        routed_experts=_sorted_by_expert,
    ),
    layer("experts-renumbered", "The experts, and the slots of a token, in the other order.", routed_experts=_renumbered),
)
