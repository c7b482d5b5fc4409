"""Routers and experts that are wrong as real ones have been."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from refimpl.layers.router import top_k_indices
from refimpl.numerics import FORMATS
from tests.conformance.computing import computing_in

wide = computing_in(np.float32)


def _gather(values, indices):
    return np.take_along_axis(values, indices, axis=-1)


@wide
def softmax_over_all(logits, *, top_k):
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=False)


@wide
def always_renormalised(logits, *, top_k, renormalise):
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=True)


@wide
def never_renormalised(logits, *, top_k, renormalise):
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=False)


@wide
def sigmoid_for_softmax(logits, *, top_k, renormalise):
    indices, weights = layers.top_k_sigmoid_router(logits, top_k=top_k)
    return indices, weights / weights.sum(axis=-1, keepdims=True) if renormalise else weights


@wide
def the_same_expert_again(logits, *, top_k):
    """Chosen experts are marked by -inf: where all that is left is -inf, the first is chosen again."""
    rest, indices = logits.copy(), []
    for _ in range(top_k):
        best = np.argmax(rest, axis=-1)[..., None]
        np.put_along_axis(rest, best, -np.inf, axis=-1)
        indices.append(best)
    indices = np.concatenate(indices, axis=-1)
    chosen = _gather(logits, indices)
    weights = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
    return indices, weights / weights.sum(axis=-1, keepdims=True)


@wide
def in_ascending_order(logits, *, top_k):
    indices, weights = layers.top_k_softmax_router(logits, top_k=top_k)
    return indices[..., ::-1], weights[..., ::-1]


@wide
def one_slot_lost(logits, *, top_k):
    """The last of the slots is taken by the shared expert's marker."""
    indices, weights = layers.top_k_softmax_router(logits, top_k=top_k)
    return indices, np.where(np.arange(top_k) == top_k - 1, 0, weights) if top_k > 1 else weights


@wide
def router_cap_dropped(logits, *, top_k, softcap):
    return layers.softmax_top_k_router(logits, top_k=top_k, renormalise=False)


@wide
def router_cap_renormalised(logits, *, top_k, softcap):
    return layers.top_k_softmax_router(layers.soft_cap(logits, cap=softcap), top_k=top_k)


@wide
def softmax_for_sigmoid(logits, *, top_k):
    return layers.top_k_softmax_router(logits, top_k=top_k)


def _sigmoid(choose=None, weigh=None, **fixed):
    """A sigmoid router of which the scores that choose, or the weights, are others."""

    @wide
    def sigmoid_router(logits, correction_bias=None, *, top_k, groups=1, top_groups=1, **options):
        scores, bias = layers.sigmoid(logits), np.float32(0) if correction_bias is None else correction_bias
        options = {"renormalise": True, "eps": 1e-20, "scaling_factor": 1.0, **options, **fixed}
        if choose is None:
            arguments = {"top_k": top_k, "groups": groups, "top_groups": top_groups}
            indices = layers.sigmoid_router(logits, correction_bias, **arguments)[0]
        else:
            indices = choose(scores, bias, top_k, groups, top_groups)
        chosen = _gather(scores, indices) if weigh is None else _gather(weigh(scores, bias), indices)
        total = chosen.sum(axis=-1, keepdims=True) + scores.dtype.type(options["eps"])
        return indices, (chosen / total if options["renormalise"] else chosen) * scores.dtype.type(options["scaling_factor"])

    return sigmoid_router


def _choosing(score_of_group, outside=-np.inf):
    def choose(scores, bias, top_k, groups, top_groups):
        corrected = scores + bias
        grouped = corrected.reshape(*corrected.shape[:-1], groups, -1)
        best = top_k_indices(score_of_group(grouped), top_groups)
        seen = (np.arange(groups) == best[..., None]).any(axis=-2)
        return top_k_indices(np.where(seen[..., None], grouped, outside).reshape(corrected.shape), top_k)

    return choose


def _two(grouped):
    return np.sort(grouped, axis=-1)[..., -2:].sum(axis=-1)


def _by_scores_alone(scores, bias, top_k, groups, top_groups):
    return _choosing(_two)(scores, scores.dtype.type(0), top_k, groups, top_groups)


def _without_groups(scores, bias, top_k, groups, top_groups):
    return top_k_indices(scores + bias, top_k)


def _with_bfloat16_bias(scores, bias, top_k, groups, top_groups):
    narrow = np.asarray(bias).astype(FORMATS["bfloat16"]).astype(scores.dtype)
    return _choosing(_two)(scores, narrow, top_k, groups, top_groups)


def _nested(function):
    """The factor multiplies renormalised weights alone."""

    @wide
    def sigmoid_router(*values, renormalise=True, scaling_factor=1.0, **options):
        factor = scaling_factor if renormalise else 1.0
        return function(*values, renormalise=renormalise, scaling_factor=factor, **options)

    return sigmoid_router


@wide
def factor_twice(*values, scaling_factor=1.0, **options):
    return layers.sigmoid_router(*values, scaling_factor=scaling_factor**2, **options)


@wide
def softmax_with_bias_in_the_weights(logits, correction_bias=None, *, top_k, scaling_factor=1.0, **options):
    biased = logits if correction_bias is None else logits + correction_bias
    return layers.softmax_top_k_router(biased, top_k=top_k, renormalise=True)


def _experts(change):
    """Experts of which an argument, by name, is another."""
    names = ("x", "indices", "weights", "gate", "up", "down", "gate_bias", "up_bias", "down_bias")

    @wide
    def routed_experts(*values, **options):
        arguments = dict(zip(names, values, strict=False))
        change(arguments, options)
        return layers.routed_experts(*(arguments[name] for name in names if name in arguments), **options)

    return routed_experts


def _exchange(arguments, options):
    arguments["gate"], arguments["up"] = arguments["up"], arguments["gate"]


def _scale_output(arguments, options):
    options.pop("scale_input", None)


def _transposed_weights(arguments, options):
    """The scores of the other tokens, as of a [T, A] array read as [A, T]."""
    weights = arguments["weights"]
    rows = weights.reshape(-1, weights.shape[-1])
    arguments["weights"] = rows.T.reshape(weights.shape)


def _without(*names):
    def change(arguments, options):
        for name in names:
            if name in arguments:
                arguments[name] = np.zeros_like(arguments[name])

    return _experts(change)


def _clamped(**constants):
    def change(arguments, options):
        if options.get("activation") == "clamped_swiglu":
            options.update(constants)

    return _experts(change)


def _plain(arguments, options):
    if options.get("activation") == "clamped_swiglu":
        for name in ("alpha", "limit"):
            options.pop(name)
        options["activation"] = "silu"


def _other_gelu(arguments, options):
    if options.get("activation", "silu").startswith("gelu"):
        options["activation"] = "gelu" if options["activation"] == "gelu_tanh" else "gelu_tanh"


@wide
def weight_on_input_and_output(x, indices, weights, *matrices, scale_input=False, **options):
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
def down_bias_unweighted(x, indices, weights, gate, up, down, gate_bias=None, up_bias=None, down_bias=None, **options):
    if down_bias is None or options.get("scale_input"):
        return layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, down_bias, **options)
    y = layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, **options)
    return y + down_bias[indices].sum(axis=-2)


@wide
def bias_after_the_clamp(x, indices, weights, gate, up, down, gate_bias=None, up_bias=None, down_bias=None, **options):
    if options.get("activation") != "clamped_swiglu" or gate_bias is None or options.get("scale_input"):
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
def idle_experts_add_their_bias(x, indices, weights, gate, up, down, gate_bias=None, up_bias=None, down_bias=None, **options):
    """Rows that only fill up a buffer get the last bias as well."""
    y = layers.routed_experts(x, indices, weights, gate, up, down, gate_bias, up_bias, down_bias, **options)
    idle = np.setdiff1d(np.arange(len(gate)), indices)
    return y if down_bias is None else y + down_bias[idle].sum(axis=0)


@wide
def last_expert_alone(x, indices, weights, *matrices, **options):
    return layers.routed_experts(x, indices[..., -1:], weights[..., -1:], *matrices, **options)


# Fault -> the function, and the implementation that has it. An id of the catalogue of bugs stands where there is one.
ROUTER_FAULTS = {
    "softmax over all experts": ("top_k_softmax_router", softmax_over_all),
    "topk-exclude-by-neg-inf-duplicate": ("top_k_softmax_router", the_same_expert_again),
    "topk-unsorted-nondeterministic": ("top_k_softmax_router", in_ascending_order),
    "fused-shared-slot-steals-routed-slot": ("top_k_softmax_router", one_slot_lost),
    "norm-topk-default-by-family": ("softmax_top_k_router", always_renormalised),
    "norm-topk-lost-in-gguf": ("softmax_top_k_router", never_renormalised),
    "sigmoid for softmax": ("softmax_top_k_router", sigmoid_for_softmax),
    "router's cap dropped": ("softcapped_softmax_router", router_cap_dropped),
    "capped weights renormalised": ("softcapped_softmax_router", router_cap_renormalised),
    "softmax for sigmoid": ("top_k_sigmoid_router", softmax_for_sigmoid),
    "router-bias-leaks-into-weights-ernie": ("sigmoid_router", _sigmoid(weigh=lambda s, b: s + b)),
    "correction bias ignored": ("sigmoid_router", _sigmoid(choose=_by_scores_alone)),
    "group-score-max-instead-of-top2sum": ("sigmoid_router", _sigmoid(choose=_choosing(lambda g: g.max(axis=-1)))),
    "group score over all experts": ("sigmoid_router", _sigmoid(choose=_choosing(lambda g: g.sum(axis=-1)))),
    "0 outside the groups": ("sigmoid_router", _sigmoid(choose=_choosing(_two, outside=0.0))),
    "groups ignored": ("sigmoid_router", _sigmoid(choose=_without_groups)),
    "router-norm-topk-missing": ("sigmoid_router", _sigmoid(renormalise=False)),
    "renormalised where it is not": ("sigmoid_router", _sigmoid(renormalise=True)),
    "router's eps ignored": ("sigmoid_router", _sigmoid(eps=1e-20)),
    "routed-scaling-missing-ep": ("sigmoid_router", _sigmoid(scaling_factor=1.0)),
    "routed-scaling-twice-nemotron": ("sigmoid_router", factor_twice),
    "routed-scaling-nested-under-renorm": ("sigmoid_router", _nested(layers.sigmoid_router)),
    "router-recover-score-by-subtracting-bias": ("sigmoid_router", _sigmoid(weigh=lambda s, b: (s + b) - b)),
    "lfm2-router-triple": ("sigmoid_router", softmax_with_bias_in_the_weights),
    "expert-down-bias-unweighted": ("routed_experts", down_bias_unweighted),
    "expert-bias-lost-in-aliased-buffer": ("routed_experts", _without("down_bias")),
    "expert-bias-on-padding-rows": ("routed_experts", idle_experts_add_their_bias),
    "biases before the activation dropped": ("routed_experts", _without("gate_bias", "up_bias")),
    "expert-bias-before-clamp": ("routed_experts", bias_after_the_clamp),
    "llama4-router-weight-after-expert": ("routed_experts", _experts(_scale_output)),
    "llama4-router-weight-input-and-output": ("routed_experts", weight_on_input_and_output),
    "llama4-router-scores-not-transposed": ("routed_experts", _experts(_transposed_weights)),
    "swiglu-gate-up-swapped": ("routed_experts", _experts(_exchange)),
    "swiglu-limit-dropped-on-one-backend": ("routed_experts", _experts(_plain)),
    "swiglu-limit-not-passed-mxfp4-hf": ("routed_experts", _clamped(limit=1e4)),
    "alpha dropped in experts": ("routed_experts", _clamped(alpha=1.0)),
    "other form of GELU in experts": ("routed_experts", _experts(_other_gelu)),
    "last expert alone": ("routed_experts", last_expert_alone),
}
# Those that exist in some formats alone: the formats too.
ROUTER_FAULTS_OF_SOME_FORMATS = {
    "router-bias-rounded-to-bf16": ("sigmoid_router", _sigmoid(choose=_with_bfloat16_bias), ("float64", "float32", "float16")),
}
