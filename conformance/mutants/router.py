"""Routers that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, Mutant, layer
from refimpl import layers
from refimpl.layers.router import top_k_indices
from refimpl.numerics import FORMATS, Array

wide = computing_in(np.float32)


def _gather(values: Array, indices: Array) -> Array:
    return np.take_along_axis(values, indices, axis=-1)


@wide
def softmax_over_all(logits: Array, *, top_k: int) -> Any:
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=False)


@wide
def always_renormalised(logits: Array, *, top_k: int, renormalise: bool) -> Any:
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=True)


@wide
def never_renormalised(logits: Array, *, top_k: int, renormalise: bool) -> Any:
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=False)


@wide
def sigmoid_for_softmax(logits: Array, *, top_k: int, renormalise: bool) -> Any:
    indices, weights = layers.top_k_sigmoid_router(logits, top_k=top_k)
    return indices, weights / weights.sum(axis=-1, keepdims=True) if renormalise else weights


@wide
def biased_choice(logits: Array, *, top_k: int, renormalise: bool) -> Any:
    """A correction bias, which other families have, moves the choice."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    bias = np.linspace(0, 0.2, logits.shape[-1], dtype=logits.dtype)
    indices = top_k_indices(weights + bias, top_k)
    chosen = _gather(weights, indices)
    return indices, chosen / chosen.sum(axis=-1, keepdims=True) if renormalise else chosen


@wide
def the_same_expert_again(logits: Array, *, top_k: int) -> Any:
    """Chosen experts are marked by -inf: where all that is left is -inf, the first is chosen again."""
    rest, found = logits.copy(), []
    for _ in range(top_k):
        best = np.argmax(rest, axis=-1)[..., None]
        np.put_along_axis(rest, best, -np.inf, axis=-1)
        found.append(best)
    indices = np.concatenate(found, axis=-1)
    chosen = _gather(logits, indices)
    weights = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
    return indices, weights / weights.sum(axis=-1, keepdims=True)


@wide
def in_ascending_order(logits: Array, *, top_k: int) -> Any:
    indices, weights = layers.top_k_softmax_router(logits, top_k=top_k)
    return indices[..., ::-1], weights[..., ::-1]


@wide
def one_slot_lost(logits: Array, *, top_k: int) -> Any:
    """The last of the slots is taken by the shared expert's marker."""
    indices, weights = layers.top_k_softmax_router(logits, top_k=top_k)
    return indices, np.where(np.arange(top_k) == top_k - 1, 0, weights) if top_k > 1 else weights


@wide
def router_cap_dropped(logits: Array, *, top_k: int, softcap: float) -> Any:
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=False)


@wide
def router_cap_renormalised(logits: Array, *, top_k: int, softcap: float) -> Any:
    return layers.top_k_softmax_router(layers.soft_cap(logits, cap=softcap), top_k=top_k)


@wide
def softmax_for_sigmoid(logits: Array, *, top_k: int) -> Any:
    return layers.top_k_softmax_router(logits, top_k=top_k)


def _sigmoid(choose: Callable[..., Any] | None = None, weigh: Callable[..., Any] | None = None, **fixed: Any) -> Function:
    """A sigmoid router of which the scores that choose, or the weights, are others."""

    @wide
    def sigmoid_router(
        logits: Array, correction_bias: Array | None = None, *, top_k: int, groups: int = 1, top_groups: int = 1, **options: Any
    ) -> Any:
        scores, bias = layers.sigmoid(logits), np.float32(0) if correction_bias is None else correction_bias
        options = {"renormalise": True, "eps": 1e-20, "scaling_factor": 1.0, **options, **fixed}
        if choose is None:
            arguments: dict[str, Any] = {"top_k": top_k, "groups": groups, "top_groups": top_groups}
            indices = layers.sigmoid_router(logits, correction_bias, **arguments)[0]
        else:
            indices = choose(scores, bias, top_k, groups, top_groups)
        chosen = _gather(scores, indices) if weigh is None else _gather(weigh(scores, bias), indices)
        total = chosen.sum(axis=-1, keepdims=True) + scores.dtype.type(options["eps"])
        return indices, (chosen / total if options["renormalise"] else chosen) * scores.dtype.type(options["scaling_factor"])

    return sigmoid_router


def _choosing(score_of_group: Callable[..., Any], outside: float = -np.inf) -> Function:
    def choose(scores: Array, bias: Array, top_k: int, groups: int, top_groups: int) -> Array:
        corrected = scores + bias
        grouped = corrected.reshape(*corrected.shape[:-1], groups, -1)
        best = top_k_indices(score_of_group(grouped), top_groups)
        seen = (np.arange(groups) == best[..., None]).any(axis=-2)
        return top_k_indices(np.where(seen[..., None], grouped, outside).reshape(corrected.shape), top_k)

    return choose


def _two(grouped: Array) -> Array:
    return np.sort(grouped, axis=-1)[..., -2:].sum(axis=-1)


def _by_scores_alone(scores: Array, bias: Array, top_k: int, groups: int, top_groups: int) -> Array:
    return _choosing(_two)(scores, scores.dtype.type(0), top_k, groups, top_groups)


def _without_groups(scores: Array, bias: Array, top_k: int, groups: int, top_groups: int) -> Array:
    return top_k_indices(scores + bias, top_k)


def _with_bfloat16_bias(scores: Array, bias: Array, top_k: int, groups: int, top_groups: int) -> Array:
    narrow = np.asarray(bias).astype(FORMATS["bfloat16"]).astype(scores.dtype)
    return _choosing(_two)(scores, narrow, top_k, groups, top_groups)


def _nested(function: Callable[..., Any]) -> Function:
    """The factor multiplies renormalised weights alone."""

    @wide
    def sigmoid_router(*values: Any, renormalise: bool = True, scaling_factor: float = 1.0, **options: Any) -> Array:
        factor = scaling_factor if renormalise else 1.0
        return function(*values, renormalise=renormalise, scaling_factor=factor, **options)

    return sigmoid_router


@wide
def factor_twice(*values: Any, scaling_factor: float = 1.0, **options: Any) -> Any:
    return layers.sigmoid_router(*values, scaling_factor=scaling_factor**2, **options)


@wide
def softmax_with_bias_in_the_weights(
    logits: Array, correction_bias: Array | None = None, *, top_k: int, scaling_factor: float = 1.0, **options: Any
) -> Any:
    biased = logits if correction_bias is None else logits + correction_bias
    return layers.softmax_top_k_router(biased, top_k=top_k, renormalise=True)


def _in_bfloat16(function: Function) -> Function:
    """A router whose logits are rounded to bfloat16 before anything is made of them."""

    def route(logits: Array, *values: Any, **options: Any) -> Any:
        return function(logits.astype(FORMATS["bfloat16"]).astype(logits.dtype), *values, **options)

    return wide(route)


SIGMOID, SOFTMAX, CHOSEN = "sigmoid_router", "softmax_top_k_router", "top_k_softmax_router"
ROUTERS = (SIGMOID, SOFTMAX, CHOSEN, "softcapped_softmax_router", "top_k_sigmoid_router")
MUTANTS = (
    Mutant(
        id="router-gemm-bf16-output",
        says="Router logits are rounded to bfloat16 before experts are chosen.",
        reports=("router-gptoss-hf-fp32-mismatch", "router-scores-not-upcast-mixtral"),
        functions={name: _in_bfloat16(layers.VOCABULARY[name]) for name in ROUTERS},
    ),
    layer("softmax-over-all-experts", CHOSEN, softmax_over_all, "Weights are shares among all experts, not the chosen ones."),
    layer(
        "topk-exclude-by-neg-inf-duplicate",
        CHOSEN,
        the_same_expert_again,
        "Chosen experts are marked by the score of hidden ones, so that one may be chosen again.",
    ),
    layer("topk-unsorted-nondeterministic", CHOSEN, in_ascending_order, "The chosen experts come in another order."),
    layer(
        "fused-shared-slot-steals-routed-slot",
        CHOSEN,
        one_slot_lost,
        "The shared expert takes one of the slots of the routed ones.",
    ),
    layer(
        "norm-topk-default-by-family",
        SOFTMAX,
        never_renormalised,
        "Weights are never divided by their sum: the default of another family.",
        "norm-topk-lost-in-gguf",
    ),
    layer(
        "always-renormalised", SOFTMAX, always_renormalised, "Weights are divided by their sum though the model says not to."
    ),
    layer("sigmoid-for-softmax", SOFTMAX, sigmoid_for_softmax, "Scores are sigmoids."),
    layer(
        "correction-bias-applied-to-model-without",
        SOFTMAX,
        biased_choice,
        "A correction bias that the model does not have moves the choice.",
    ),
    layer("router-cap-dropped", "softcapped_softmax_router", router_cap_dropped, "The router's logits are not capped."),
    layer(
        "capped-weights-renormalised",
        "softcapped_softmax_router",
        router_cap_renormalised,
        "Weights are shares among the chosen experts.",
    ),
    layer("softmax-for-sigmoid", "top_k_sigmoid_router", softmax_for_sigmoid, "Scores are a softmax over the chosen experts."),
    layer(
        "router-bias-leaks-into-weights-ernie",
        SIGMOID,
        _sigmoid(weigh=lambda s, b: s + b),
        "The bias that corrects the choice is part of the weights.",
    ),
    layer("correction-bias-ignored", SIGMOID, _sigmoid(choose=_by_scores_alone), "The choice is not corrected."),
    layer(
        "group-score-max-instead-of-top2sum",
        SIGMOID,
        _sigmoid(choose=_choosing(lambda g: g.max(axis=-1))),
        "A group is as good as its best expert, not as its two best.",
        "group-score-max-megatron",
    ),
    layer(
        "group-score-over-all-experts",
        SIGMOID,
        _sigmoid(choose=_choosing(lambda g: g.sum(axis=-1))),
        "A group is as good as all its experts.",
    ),
    layer(
        "0-outside-the-groups",
        SIGMOID,
        _sigmoid(choose=_choosing(_two, outside=0.0)),
        "Experts outside of the chosen groups score 0, which may be more than those inside.",
    ),
    layer("groups-ignored", SIGMOID, _sigmoid(choose=_without_groups), "Experts of every group may be chosen."),
    layer(
        "router-norm-topk-missing",
        SIGMOID,
        _sigmoid(renormalise=False),
        "Sigmoids are not divided by their sum.",
        "dsv3-titan-no-norm-topk",
    ),
    layer("renormalised-where-it-is-not", SIGMOID, _sigmoid(renormalise=True), "Sigmoids are divided by their sum always."),
    layer("router-eps-ignored", SIGMOID, _sigmoid(eps=1e-20), "The eps under the sum is another one."),
    layer("routed-scaling-missing-ep", SIGMOID, _sigmoid(scaling_factor=1.0), "The scaling factor is applied nowhere."),
    layer("routed-scaling-twice-nemotron", SIGMOID, factor_twice, "The scaling factor is applied twice."),
    layer(
        "routed-scaling-nested-under-renorm",
        SIGMOID,
        _nested(layers.sigmoid_router),
        "The scaling factor is applied only where weights are divided by their sum.",
    ),
    layer(
        "router-recover-score-by-subtracting-bias",
        SIGMOID,
        _sigmoid(weigh=lambda s, b: (s + b) - b),
        "Weights are the corrected scores less the correction, which cancels.",
    ),
    layer(
        "lfm2-router-triple",
        SIGMOID,
        softmax_with_bias_in_the_weights,
        "Scores are a softmax, the bias is part of the weights, and nothing scales them.",
    ),
    layer(
        "router-bias-rounded-to-bf16",
        SIGMOID,
        _sigmoid(choose=_with_bfloat16_bias),
        "The correction bias is rounded to bfloat16.",
        dtypes=("float64", "float32", "float16"),
    ),
)
