"""Routers: which experts a token is sent to, and with which weights, from its router logits.

Every router returns (indices, weights), both [..., A], the chosen experts in descending order of the score that chose
them; of equal scores the lower index comes first, and an expert is chosen once, also where scores are -inf. A logit of -inf
shuts its expert: it is chosen only where no others are left, and weighs 0 (but a softcap makes -cap of it, which does weigh).
Where all are -inf, or where one is inf or NaN, the weights of the token mean nothing.
"""

from __future__ import annotations

import numpy as np

from refimpl.layers.attention import soft_cap
from refimpl.layers.mlp import sigmoid
from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_counts, check_flags, check_floats, check_numbers


@float32_inside
def top_k_softmax_router(logits: Array, *, top_k: int) -> tuple[Array, Array]:
    """Choose by the logits, then weigh by a softmax over the chosen ones.

    i = the top_k largest logits        w = softmax(logits_i)

    Shapes: logits [..., E]; indices int [..., A] and weights [..., A] with A = top_k.
    Rules:
      R1  the weights of a token sum to 1.
      R2  a logit that was not chosen changes nothing.
      R3  of equal logits the lower index is chosen, and comes first.
    Dtype: T1  logits in the model's format, softmax in float32, weights cast back. This function computes in the dtype of
           logits.
    Pitfalls: softmax over all experts, where the weights sum to less than 1 (norm-topk-default-by-family); an expert twice
      where the rest is -inf (topk-exclude-by-neg-inf-duplicate); ties in any order (topk-unsorted-nondeterministic).
    Source: gpt-oss release.
    """
    _check("top_k_softmax_router", logits, top_k)
    indices = top_k_indices(logits, top_k)
    return indices, _softmax(np.take_along_axis(logits, indices, axis=-1))


@float32_inside
def softmax_top_k_router(logits: Array, *, top_k: int, renormalise: bool) -> tuple[Array, Array]:
    """Softmax over all experts, then the largest.

    p = softmax(logits)     i = the top_k largest p     w = p_i / sum(p_i) when `renormalise`, else p_i

    Shapes: as `top_k_softmax_router`.
    Rules:
      R1  without `renormalise` the weights sum to less than 1 wherever an expert is left out.
      R2  with `renormalise` the weights equal those of `top_k_softmax_router`.
      R3  of equal probabilities the lower index is chosen, and comes first.
    Dtype: T1  softmax and division in float32, weights cast back. This function computes in the dtype of logits.
    Pitfalls: renormalised where the model does not, or the reverse (norm-topk-lost-in-gguf, norm-topk-default-by-family);
      softmax in a narrow format (router-scores-not-upcast-mixtral).
    Source: Shazeer et al., arXiv:1701.06538; Qwen3-MoE (`norm_topk_prob`).
    """
    _check("softmax_top_k_router", logits, top_k)
    check_flags("softmax_top_k_router", renormalise=renormalise)
    probabilities = _softmax(logits)
    indices = top_k_indices(probabilities, top_k)
    weights = np.take_along_axis(probabilities, indices, axis=-1)
    return indices, weights / np.sum(weights, axis=-1, keepdims=True) if renormalise else weights


@float32_inside
def softcapped_softmax_router(logits: Array, *, top_k: int, softcap: float) -> tuple[Array, Array]:
    """Softmax over all capped logits, then the largest, which keep their probabilities.

    p = softmax(cap · tanh(logits / cap))     i = the top_k largest p     w = p_i

    Shapes: as `top_k_softmax_router`.
    Rules:
      R1  the weights are not renormalised: they sum to less than 1.
      R2  the cap comes before the softmax.
      R3  of equal probabilities the lower index is chosen, and comes first.
    Dtype: T1  cap and softmax in float32, weights cast back. This function computes in the dtype of logits.
    Pitfalls: renormalised weights; the cap left out, which sharpens the choice (attn-softcap-wrong is its twin).
    Source: Grok 2 release as its recommended engine computes it.
    """
    _check("softcapped_softmax_router", logits, top_k)
    check_numbers("softcapped_softmax_router", softcap=softcap, above=0)
    return softmax_top_k_router(soft_cap(logits, cap=softcap), top_k=top_k, renormalise=False)


@float32_inside
def sigmoid_router(
    logits: Array,
    correction_bias: Array | None = None,
    *,
    top_k: int,
    groups: int = 1,
    top_groups: int = 1,
    renormalise: bool = True,
    eps: float = 1e-20,
    scaling_factor: float = 1.0,
) -> tuple[Array, Array]:
    """Sigmoid scores; a bias corrects the choice, not the weights; groups of experts are chosen first.

    s = σ(logits)        c = s + correction_bias
    group score = the sum of the two largest c of a group; experts outside the top_groups best groups get c = -inf
    i = the top_k largest c
    w = scaling_factor · s_i / (sum(s_i) + eps) when `renormalise`, else scaling_factor · s_i

    Shapes: logits [..., E] with E a multiple of groups, correction_bias [E] or absent; results as `top_k_softmax_router`.
    Rules:
      R1  the correction bias decides which experts are chosen and never enters a weight.
      R2  a group's score is the sum of its two largest corrected scores (of the only one in a group of one).
      R3  an expert outside the chosen groups is never chosen, however negative the finite scores inside are.
      R4  scaling_factor multiplies last, whether the weights are renormalised or not.
      R5  of equal scores the lower index is chosen, and comes first; so for groups.
    Dtype: T1  all in float32, the bias too; weights cast back. This function computes in the dtype of logits.
    Pitfalls: the bias in the weights (router-bias-leaks-into-weights-ernie), recovered by subtraction
      (router-recover-score-by-subtracting-bias) or rounded (router-bias-rounded-to-bf16); the largest score for the group's
      (group-score-max-instead-of-top2sum); 0 instead of -inf outside the groups; the weights not renormalised
      (router-norm-topk-missing); the factor inside the condition (routed-scaling-nested-under-renorm) or twice
      (routed-scaling-twice-nemotron).
    Source: DeepSeek-V3, arXiv:2412.19437, section 2.1.2; GLM-4.5 and MiniMax-M2 releases.
    """
    layer = "sigmoid_router"
    _check(layer, logits, top_k)
    check(layer, logits=(logits, "...E"), correction_bias=(correction_bias, "E?"))
    check_floats(layer, logits=logits, correction_bias=correction_bias)
    check_flags(layer, renormalise=renormalise)
    check_numbers(layer, scaling_factor=scaling_factor)
    check_numbers(layer, eps=eps, at_least=0)
    scores = sigmoid(logits)
    corrected = scores if correction_bias is None else scores + correction_bias
    indices = top_k_indices(_within_groups(layer, corrected, top_k, groups, top_groups), top_k)
    weights = np.take_along_axis(scores, indices, axis=-1)
    if renormalise:
        weights = weights / (np.sum(weights, axis=-1, keepdims=True) + scores.dtype.type(eps))
    return indices, weights * scores.dtype.type(scaling_factor)


@float32_inside
def top_k_sigmoid_router(logits: Array, *, top_k: int) -> tuple[Array, Array]:
    """Choose by the logits, then weigh each chosen one by its sigmoid.

    i = the top_k largest logits        w = σ(logits_i)

    Shapes: as `top_k_softmax_router`.
    Rules:
      R1  the weights are independent of each other: they are not renormalised.
      R2  of equal logits the lower index is chosen, and comes first.
    Dtype: T1  the sigmoid in float32, weights cast back. This function computes in the dtype of logits.
    Pitfalls: a softmax, which is 1 for one expert; the weight applied to the expert's output
      (llama4-router-weight-after-expert).
    Source: Llama 4 release.
    """
    _check("top_k_sigmoid_router", logits, top_k)
    indices = top_k_indices(logits, top_k)
    return indices, sigmoid(np.take_along_axis(logits, indices, axis=-1))


def top_k_indices(scores: Array, k: int) -> Array:
    """The places of the k largest of scores [..., E] in descending order, of equal ones the first: int [..., k]."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def _within_groups(layer: str, corrected: Array, top_k: int, groups: int, top_groups: int) -> Array:
    """Scores [..., E] with -inf outside the best groups (R2, R3)."""
    check_counts(layer, groups=groups, top_groups=top_groups)
    experts = corrected.shape[-1]
    if experts % groups or top_groups > groups or top_k > experts // groups * top_groups:
        raise ValueError(
            f"{layer}: {top_k} experts of {top_groups} groups cannot be chosen from {experts} experts in {groups} groups"
        )
    if groups == 1:
        return corrected
    grouped = corrected.reshape(*corrected.shape[:-1], groups, experts // groups)
    group_scores = np.sort(grouped, axis=-1)[..., -2:].sum(axis=-1)
    chosen = np.zeros(group_scores.shape, dtype=bool)
    np.put_along_axis(chosen, top_k_indices(group_scores, top_groups), True, axis=-1)
    return np.where(np.repeat(chosen, experts // groups, axis=-1), corrected, -np.inf)


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


def _check(layer: str, logits: Array, top_k: int) -> None:
    sizes = check(layer, logits=(logits, "...E"))
    check_floats(layer, logits=logits)
    check_counts(layer, top_k=top_k)
    if top_k > sizes["E"]:
        raise ValueError(f"{layer}: top_k is {top_k} but logits has only {sizes['E']} experts")
