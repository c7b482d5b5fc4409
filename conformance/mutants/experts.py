"""Routed experts that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.numerics import FORMATS, Array

wide = computing_in(np.float32)


def _experts(change: Callable[..., Any]) -> Function:
    """Experts of which an argument, by name, is another."""
    names = ("x", "indices", "weights", "gate", "up", "down", "gate_bias", "up_bias", "down_bias")

    @wide
    def routed_experts(*values: Any, **options: Any) -> Array:
        arguments = dict(zip(names, values, strict=False))
        change(arguments, options)
        return layers.routed_experts(*(arguments[name] for name in names if name in arguments), **options)

    return routed_experts


def _exchange(arguments: dict[str, Any], options: Any) -> None:
    arguments["gate"], arguments["up"] = arguments["up"], arguments["gate"]
    if "up_bias" in arguments:
        arguments["gate_bias"], arguments["up_bias"] = arguments["up_bias"], arguments["gate_bias"]


def _scale_output(arguments: dict[str, Any], options: Any) -> None:
    options.pop("scale_input", None)


def _transposed_weights(arguments: dict[str, Any], options: Any) -> None:
    """The scores of the other tokens, as of a [T, A] array read as [A, T]."""
    weights = arguments["weights"]
    rows = weights.reshape(-1, weights.shape[-1])
    arguments["weights"] = rows.T.reshape(weights.shape)


def _without(*names: str) -> Function:
    def change(arguments: dict[str, Any], options: Any) -> None:
        for name in names:
            if name in arguments:
                arguments[name] = np.zeros_like(arguments[name])

    return _experts(change)


def _clamped(**constants: Any) -> Function:
    def change(arguments: dict[str, Any], options: Any) -> None:
        if options.get("activation") == "clamped_swiglu":
            options.update(constants)

    return _experts(change)


def _plain(arguments: dict[str, Any], options: Any) -> None:
    if options.get("activation") == "clamped_swiglu":
        for name in ("alpha", "limit"):
            options.pop(name)
        options["activation"] = "silu"


def _other_gelu(arguments: dict[str, Any], options: Any) -> None:
    if options.get("activation", "silu").startswith("gelu"):
        options["activation"] = "gelu" if options["activation"] == "gelu_tanh" else "gelu_tanh"


@wide
def weight_on_input_and_output(
    x: Array, indices: Array, weights: Array, *matrices: Any, scale_input: bool = False, **options: Any
) -> Array:
    y = layers.routed_experts(x, indices, weights, *matrices, scale_input=scale_input, **options)
    if not scale_input:
        return y
    ones = np.ones_like(weights[..., :1])
    parts = [
        weights[..., a : a + 1]
        * layers.routed_experts(x * weights[..., a : a + 1], indices[..., a : a + 1], ones, *matrices, **options)
        for a in range(weights.shape[-1])
    ]
    return np.sum(parts, axis=0, dtype=x.dtype)


@wide
def down_bias_unweighted(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    **options: Any,
) -> Array:
    if down_bias is None or options.get("scale_input"):
        return layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, down_bias, **options)
    y = layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, **options)
    return y + down_bias[indices].sum(axis=-2)


@wide
def bias_after_the_clamp(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    **options: Any,
) -> Array:
    if options.get("activation") != "clamped_swiglu" or gate_bias is None or up_bias is None or options.get("scale_input"):
        return layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, down_bias, **options)
    alpha, limit = x.dtype.type(options["alpha"]), x.dtype.type(options["limit"])
    y = np.zeros_like(x)
    for place in np.ndindex(indices.shape):
        e, row = indices[place], x[place[:-1]]
        opened = np.minimum(gate[e] @ row, limit) + gate_bias[e]
        passed = np.clip(up[e] @ row, -limit, limit) + up_bias[e]
        output = down[e] @ (opened * layers.sigmoid(alpha * opened) * (passed + 1))
        y[place[:-1]] += weights[place] * (output if down_bias is None else output + down_bias[e])
    return y


@wide
def idle_experts_add_their_bias(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    **options: Any,
) -> Array:
    """Rows that only fill up a buffer get the last bias as well."""
    y = layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, down_bias, **options)
    idle = np.setdiff1d(np.arange(len(gate)), indices)
    return y if down_bias is None else y + down_bias[idle].sum(axis=0)


@wide
def last_expert_alone(x: Array, indices: Array, weights: Array, *matrices: Any, **options: Any) -> Array:
    return layers.routed_experts(x, indices[..., -1:], weights[..., -1:], *matrices, **options)


def combined_in_bfloat16(x: Array, indices: Array, weights: Array, *matrices: Array, **options: Any) -> Array:
    """Each expert's share and every sum of shares are rounded to bfloat16."""
    narrow, ones = FORMATS["bfloat16"], np.ones_like(weights[..., :1])
    if options.get("scale_input"):
        return _right(x, indices, weights, *matrices, **options)
    y = np.zeros(x.shape, narrow)
    for slot in range(indices.shape[-1]):
        output = _right(x, indices[..., slot : slot + 1], ones, *matrices, **options).astype(narrow)
        y = y + output * weights[..., slot : slot + 1].astype(narrow)
    return y.astype(x.dtype)


@wide
def _right(*values: Any, **options: Any) -> Array:
    return layers.routed_experts(*values, **options)


EXPERTS = "routed_experts"
MUTANTS = (
    layer(
        "expert-down-bias-unweighted",
        EXPERTS,
        down_bias_unweighted,
        "The last bias of each chosen expert is added in full, whatever its weight.",
    ),
    layer("expert-bias-lost-in-aliased-buffer", EXPERTS, _without("down_bias"), "The last bias is added to a copy."),
    layer(
        "expert-bias-on-padding-rows",
        EXPERTS,
        idle_experts_add_their_bias,
        "Rows that only fill up a buffer get the last bias and are summed as well.",
    ),
    layer(
        "expert-biases-before-activation-dropped", EXPERTS, _without("gate_bias", "up_bias"), "The first biases are left out."
    ),
    layer("expert-bias-before-clamp", EXPERTS, bias_after_the_clamp, "Biases are added after the clamp."),
    layer(
        "llama4-router-weight-after-expert",
        EXPERTS,
        _experts(_scale_output),
        "The weight multiplies an expert's output and not its input.",
    ),
    layer(
        "llama4-router-weight-input-and-output",
        EXPERTS,
        weight_on_input_and_output,
        "The weight multiplies an expert's input and its output.",
    ),
    layer(
        "llama4-router-scores-not-transposed",
        EXPERTS,
        _experts(_transposed_weights),
        "Weights are read as a table of experts by tokens.",
    ),
    layer("swiglu-gate-up-swapped", EXPERTS, _experts(_exchange), "Gate and up are exchanged, their biases too."),
    layer(
        "swiglu-limit-dropped-on-one-backend",
        EXPERTS,
        _experts(_plain),
        "Experts are plain SwiGLU: alpha, limit and the 1 do not reach the kernel.",
    ),
    layer("swiglu-limit-not-passed-mxfp4-hf", EXPERTS, _clamped(limit=1e4), "Experts do not clamp."),
    layer("alpha-dropped-in-experts", EXPERTS, _clamped(alpha=1.0), "alpha is 1 in experts."),
    layer("other-form-of-gelu-in-experts", EXPERTS, _experts(_other_gelu), "The two forms of GELU are exchanged in experts."),
    layer("last-expert-alone", EXPERTS, last_expert_alone, "Of the chosen experts the last overwrites the others."),
    layer(
        "moe-combine-in-bf16",
        EXPERTS,
        combined_in_bfloat16,
        "Weights, shares and their sum are rounded to bfloat16.",
    ),
)
