"""Laws of routers and experts: renumbering, the dense mixture, one token at a time, and routers that are each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.cases.router import groups_stand
from conformance.choice import drawn_until, stands
from conformance.laws.law import Call, Draw, Law
from refimpl import layers
from refimpl.numerics import Array

EXPERTS, TOP_K = 7, 3


def _top_k(scores: Array) -> Array:
    return layers.top_k_softmax_router(scores, top_k=TOP_K)[0]


def decided(draw: Draw, keep: Callable[[Array], Array] | None = None, *, tokens: int = 6, experts: int = EXPERTS) -> Array:
    """Logits [N, E], multiples of 1/8, of which the choice stands in every format."""

    def rows(count: int) -> Array:
        return np.argsort(draw.generator.random((count, experts)), axis=-1) / 2 - 1.75

    return draw.input(drawn_until(keep or (lambda found: stands(_top_k, found, draw.roundoff)), rows, tokens))


def spread(chosen: tuple[Array, Array], experts: int = EXPERTS) -> Array:
    """Indices and weights as one row a token, 0 where an expert was not chosen: [N, E]."""
    indices, weights = chosen
    dense = np.zeros((*weights.shape[:-1], experts), weights.dtype)
    np.put_along_axis(dense, indices, weights, axis=-1)
    return dense


def matrices(draw: Draw) -> tuple[Array, ...]:
    """gate, up, down and the three biases of 7 experts of width 8 with 5 entries inside."""
    wide = (EXPERTS, 5, 8)
    return (
        *(draw.normal(*wide, scale=0.7) for _ in range(2)),
        draw.normal(EXPERTS, 8, 5, scale=0.5),
        *(draw.normal(EXPERTS, size) for size in (5, 5, 8)),
    )


def choices(draw: Draw, *, top_k: int = TOP_K) -> tuple[Array, Array]:
    """Indices and weights of 6 tokens."""
    indices = np.argsort(draw.generator.random((6, EXPERTS)), axis=-1)[:, :top_k]
    return indices, draw.input(draw.generator.uniform(0.2, 1, indices.shape))


def all_chosen(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, experts, (indices, weights) = draw.normal(6, 8), matrices(draw), choices(draw, top_k=EXPERTS)
    gate, up, down, gate_bias, up_bias, down_bias = experts
    dense = spread((indices, weights))
    outputs = [
        call(
            "linear",
            call("swiglu", call("linear", x, gate[e], gate_bias[e]), call("linear", x, up[e], up_bias[e])),
            down[e],
            down_bias[e],
        )
        for e in range(EXPERTS)
    ]
    mixture = sum(outputs[e] * dense[:, e : e + 1] for e in range(EXPERTS))
    return call("routed_experts", x, indices, weights, *experts), np.asarray(mixture)


def renumbered(call: Call, draw: Draw) -> tuple[Array, Array]:
    """The rows of the router and the experts in another order; logits are exact, as inputs of one-hot tokens."""
    experts, x = matrices(draw), draw.normal(6, 8)
    logits, order = decided(draw), draw.generator.permutation(EXPERTS)

    def mixed(rows: Array, stacks: list[Array]) -> Array:
        scores = call("linear", np.eye(6, dtype=rows.dtype), rows)
        result: Array = call("routed_experts", x, *call("top_k_softmax_router", scores, top_k=TOP_K), *stacks)
        return result

    return mixed(logits.T[order], [stack[order] for stack in experts]), mixed(logits.T, list(experts))


def tokens_alone(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, experts, (indices, weights) = draw.normal(6, 8), matrices(draw), choices(draw)
    alone = [call("routed_experts", x[t : t + 1], indices[t : t + 1], weights[t : t + 1], *experts) for t in range(6)]
    return np.concatenate(alone), call("routed_experts", x, indices, weights, *experts)


def slots_reordered(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, experts, (indices, weights) = draw.normal(6, 8), matrices(draw), choices(draw)
    other = call("routed_experts", x, indices[:, ::-1], weights[:, ::-1], *experts)
    return other, call("routed_experts", x, indices, weights, *experts)


def weight_zero(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, experts, (indices, weights) = draw.normal(6, 8), matrices(draw), choices(draw)
    weights = np.concatenate([weights[:, :-1], np.zeros_like(weights[:, :1])], axis=1)
    left = call("routed_experts", x, indices, weights, *experts)
    return left, call("routed_experts", x, indices[:, :-1], weights[:, :-1], *experts)


def double_weights(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, experts, (indices, weights) = draw.normal(6, 8), matrices(draw), choices(draw)
    left = call("routed_experts", x, indices, 2 * weights, *experts)
    return left, 2 * call("routed_experts", x, indices, weights, *experts)


def scaled_input(call: Call, draw: Draw) -> tuple[Array, Array]:
    """One expert a token, whose weight 1/2 multiplies the input exactly."""
    x, experts, (indices, _) = draw.normal(6, 8), matrices(draw), choices(draw, top_k=1)
    half = np.full((6, 1), 0.5, x.dtype)
    left = call("routed_experts", x, indices, half, *experts, scale_input=True)
    return left, call("routed_experts", x / 2, indices, np.ones_like(half), *experts)


def softmax_before_or_after(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits = decided(draw)
    left = call("softmax_top_k_router", logits, top_k=TOP_K, renormalise=True)
    return spread(left), spread(call("top_k_softmax_router", logits, top_k=TOP_K))


def shifted_logits(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits = decided(draw)
    left = call("softmax_top_k_router", logits + 2, top_k=TOP_K, renormalise=False)
    return spread(left), spread(call("softmax_top_k_router", logits, top_k=TOP_K, renormalise=False))


def huge_cap(call: Call, draw: Draw) -> tuple[Array, Array]:
    """The cap is large enough to vanish in the dtype, and small enough not to overflow in it."""
    logits, cap = decided(draw), 2.0 ** (3 - round(np.log2(draw.roundoff) * 2 / 3))
    left = call("softcapped_softmax_router", logits, top_k=TOP_K, softcap=cap)
    return spread(left), spread(call("softmax_top_k_router", logits, top_k=TOP_K, renormalise=False))


def sigmoid_of_all(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits = draw.normal(6, EXPERTS)
    return spread(call("top_k_sigmoid_router", logits, top_k=EXPERTS)), call("sigmoid", logits)


def _corrected(draw: Draw, **grouping: Any) -> tuple[Array, Array]:
    """Logits [N, E] and a correction bias [E], of which the choice stands."""
    bias = draw.generator.integers(-4, 5, 8) / 8

    def choose(scores: Array) -> Array:
        return np.asarray(layers.sigmoid_router(scores, bias, top_k=2, **grouping)[0])

    def keep(scores: Array) -> Array:
        clear = groups_stand(layers.sigmoid(scores) + bias, draw.roundoff, lone=False, **grouping)
        return clear & stands(choose, scores, draw.roundoff)

    return decided(draw, keep, experts=8), draw.input(bias)


def same_for_all(**grouping: Any) -> Any:
    """The choice depends on the differences of the bias alone, however negative it is."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        logits, bias = _corrected(draw, **grouping)
        left = call("sigmoid_router", logits, bias - 2, top_k=2, **grouping)
        return spread(left, 8), spread(call("sigmoid_router", logits, bias, top_k=2, **grouping), 8)

    return sides


def every_group(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits, bias = _corrected(draw)
    left = call("sigmoid_router", logits, bias, top_k=2, groups=4, top_groups=4)
    return spread(left, 8), spread(call("sigmoid_router", logits, bias, top_k=2), 8)


def scaling_factor(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits, bias = _corrected(draw)
    left = call("sigmoid_router", logits, bias, top_k=2, renormalise=False, scaling_factor=4.0)
    return spread(left, 8), 4 * spread(call("sigmoid_router", logits, bias, top_k=2, renormalise=False), 8)


def _law(name: str, statement: str, sides: Any, *functions: str) -> Law:
    return Law(name=name, functions=functions, statement=statement, sides=sides)


ROUTED, SIGMOID = "routed_experts", "sigmoid_router"
SAME_BIAS = "a correction added to all experts alike changes nothing"
LAWS = (
    _law("all_chosen", "all experts chosen are the dense mixture", all_chosen, ROUTED, "linear", "swiglu"),
    _law(
        "renumbered",
        "experts permuted with their router rows change nothing",
        renumbered,
        ROUTED,
        "top_k_softmax_router",
        "linear",
    ),
    _law("tokens_alone", "tokens routed alone give what they give together", tokens_alone, ROUTED),
    _law("slots", "the order of a token's experts changes nothing", slots_reordered, ROUTED),
    _law("weight_zero", "an expert of weight 0 is as one that was not chosen", weight_zero, ROUTED),
    _law("double_weights", "double weights double the result", double_weights, ROUTED),
    _law("scaled_input", "a weight on the input is a scaled input", scaled_input, ROUTED),
    _law(
        "before_or_after",
        "a renormalised softmax over all is a softmax over the chosen",
        softmax_before_or_after,
        "softmax_top_k_router",
        "top_k_softmax_router",
    ),
    _law("shift", "a constant added to all logits changes nothing", shifted_logits, "softmax_top_k_router"),
    _law("huge_cap", "a huge softcap changes nothing", huge_cap, "softcapped_softmax_router", "softmax_top_k_router"),
    _law("all_chosen", "all experts chosen weigh their sigmoids", sigmoid_of_all, "top_k_sigmoid_router", "sigmoid"),
    _law("same_bias", SAME_BIAS, same_for_all(), SIGMOID),
    _law("same_bias_groups", SAME_BIAS, same_for_all(groups=4, top_groups=2), SIGMOID),
    _law("every_group", "groups that are all chosen change nothing", every_group, SIGMOID),
    _law("scaling_factor", "the factor multiplies the weights", scaling_factor, SIGMOID),
)
