"""Sampling: from logits to the distribution that a token is drawn from, and the exact verification of drafted tokens.

Randomness is an argument: uniform numbers in [0, 1) that the caller draws.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_counts, check_floats, check_integers, check_numbers


@float32_inside
def token_distribution(
    logits: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Array:
    """The distribution of the next token: temperature, then the filters top_k, top_p and min_p, each on what the last one left.

    z = logits / temperature
    top_k   z_i = -inf where z_i < the top_k-th largest
    top_p   z_i = -inf where the tokens likelier than i have at least top_p of softmax(z) together
    min_p   z_i = -inf where softmax(z)_i < min_p · max softmax(z)
    p = softmax(z)

    Shapes: logits [..., V]; result [..., V].
    Rules:
      R1  temperature divides before any filter looks.
      R2  equal logits stay or go together: of those equal to the top_k-th largest all stay, so more than top_k may.
      R3  top_p keeps the token that reaches it: the fewest likeliest tokens with at least top_p together, and their equals.
      R4  top_p and min_p see the distribution that the filters before them left, renormalised.
      R5  the likeliest token always stays; top_p = 1 and top_k of V or more keep all.
      R6  temperature 0 is the limit: 1 for the largest logit, of equal ones the first; no filter changes it.
      R7  a logit of -inf has probability 0. Where all are -inf, or one is inf or NaN, the result means nothing.
    Dtype: T1  in float32, cast back. This function computes in the dtype of logits.
    Pitfalls: temperature after the filters (temperature-after-filters); top_p of probabilities that do not sum to 1 after
      top_k (topk-before-topp-unnormalised); the token that reaches top_p dropped, with all else where it is the likeliest.
    Source: Holtzman et al., arXiv:1904.09751, section 3.1 (top_p); Fan et al., arXiv:1805.04833, section 5.4 (top_k);
      Nguyen et al., arXiv:2407.01082, section 3 (min_p); the order is that of transformers' generation.
    """
    _check_distribution(logits, temperature, top_k, top_p, min_p)
    divisor = logits.dtype.type(temperature)
    if divisor == 0:
        return (np.arange(logits.shape[-1]) == np.argmax(logits, axis=-1)[..., None]).astype(logits.dtype)
    scaled = (logits - np.max(logits, axis=-1, keepdims=True)) / divisor
    if top_k is not None and top_k < logits.shape[-1]:
        # Of the logits as given: what they are divided by changes no order, and its rounding might.
        scaled = np.where(logits >= np.sort(logits, axis=-1)[..., -top_k, None], scaled, -np.inf)
    if top_p is not None and top_p < 1:
        probabilities = _softmax(scaled)
        scaled = np.where(probabilities >= _smallest_inside(probabilities, top_p), scaled, -np.inf)
    if min_p is not None:
        probabilities = _softmax(scaled)
        scaled = np.where(probabilities >= min_p * np.max(probabilities, axis=-1, keepdims=True), scaled, -np.inf)
    return _softmax(scaled)


@float32_inside
def speculative_accept(target: Array, draft: Array, drafts: Array, uniforms: Array) -> tuple[Array, Array]:
    """How many drafted tokens stand, and the distribution of the token after them.

    draft i stands where u_i < p_i(x_i) / q_i(x_i) and all before it stand
    after n of T drafts: max(p_n - q_n, 0) / sum(max(p_n - q_n, 0)) where n < T, p_T where all stand

    x are drafts, u uniforms, p is target and q draft: what x_i was drawn from, given the tokens before it.

    Shapes: target [B, T + 1, V], draft [B, T, V], drafts int [B, T], uniforms [B, T]; results int64 [B] and [B, V].
    Rules:
      R1  a draft stands with probability min(1, p(x) / q(x)), and the first that falls ends the row.
      R2  after a draft that fell the next token comes from the residual of its own place, renormalised.
      R3  after the last draft it comes from the target's distribution one place further, the bonus token.
      R4  the drafts that stand and the token drawn after them have exactly the target's distribution, whatever q is, as long
          as x was drawn from q.
      R5  a token of p(x) = 0 never stands, also where u = 0; one of q(x) = 0 < p(x) stands.
      R6  where the residual is 0 throughout, which rounding alone can bring about, it is p.
    Dtype: T1  comparison and residual in float32, cast back. This function computes in the dtype of target.
    Pitfalls: the draft accepted where it equals a token sampled from p, and a token sampled anew where it does not
      (spec-accept-by-equality-when-sampling); q that the draft was not drawn from: a softmax for a greedy draft, whose q is 1
      at the draft (spec-greedy-draft-with-soft-q), or another format's (spec-draft-sampled-from-other-dist); p(x) / max p
      (spec-accept-ratio-wrong-denominator); the residual through logarithms that cancel (spec-log-residual-cancellation).
    Source: Leviathan et al., arXiv:2211.17192, section 2.3 and appendix A.1; Chen et al., arXiv:2302.01318, algorithm 2.
    """
    _check_accept(target, draft, drafts, uniforms)
    places_BT1 = drafts.astype(np.int64)[..., None]
    p_BT = np.take_along_axis(target[:, :-1], places_BT1, axis=-1)[..., 0]
    q_BT = np.take_along_axis(draft, places_BT1, axis=-1)[..., 0]
    stands_BT = np.logical_and.accumulate(uniforms * q_BT < p_BT, axis=1)  # R5: a product, for a ratio may be 0 / 0
    accepted_B = stands_BT.astype(np.int64).sum(axis=1)
    nothing_B1V = np.zeros_like(target[:, :1])
    p_BV, q_BV = (
        np.take_along_axis(each, accepted_B[:, None, None], axis=1)[:, 0]
        for each in (target, np.concatenate([draft, nothing_B1V], axis=1))
    )
    residual_BV = np.maximum(p_BV - q_BV, 0)
    total_B1 = np.sum(residual_BV, axis=-1, keepdims=True)
    bonus_B1 = (accepted_B == drafts.shape[1])[:, None]
    return accepted_B, np.where(bonus_B1 | (total_B1 == 0), p_BV, residual_BV / np.where(total_B1 == 0, 1, total_B1))


def sample_token(probabilities: Array, uniforms: Array) -> Array:
    """The token at which the cumulative distribution first exceeds u: inverse transform sampling.

    i = the first with p_0 + ... + p_i > u · (p_0 + ... + p_V-1)

    Shapes: probabilities [..., V], uniforms [...] in [0, 1); result int64 [...].
    Rules:
      R1  token i comes out for u in an interval of length p_i, tokens in order of their index.
      R2  a token of probability 0 never comes out, also at u = 0 and where the sum is less than 1 by rounding.
    Not in the vocabulary: which token a uniform number stands for is a convention, and a backend draws with its own.
    Dtype: that of probabilities.
    Source: Devroye, Non-Uniform Random Variate Generation (1986), section III.2.
    """
    sizes = check("sample_token", probabilities=(probabilities, "...V"), uniforms=(uniforms, "..."))
    check_floats("sample_token", probabilities=probabilities, uniforms=uniforms)
    if uniforms.shape != probabilities.shape[:-1]:
        raise ValueError(f"sample_token: uniforms has shape {uniforms.shape} but needs {probabilities.shape[:-1]}")
    _check_uniforms("sample_token", uniforms)
    reached = np.cumsum(probabilities, axis=-1)
    chosen = np.sum(reached <= uniforms[..., None] * reached[..., -1:], axis=-1, dtype=np.int64)
    # u times the sum may round up to the sum itself.
    last = sizes["V"] - 1 - np.argmax(probabilities[..., ::-1] > 0, axis=-1)
    return np.minimum(chosen, last)


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


def _smallest_inside(probabilities: Array, top_p: float) -> Array:
    """The smallest probability [..., 1] that top_p keeps (R3)."""
    descending = np.sort(probabilities, axis=-1)[..., ::-1]
    before = np.concatenate([np.zeros_like(descending[..., :1]), np.cumsum(descending, axis=-1)[..., :-1]], axis=-1)
    return np.min(np.where(before < top_p, descending, np.inf), axis=-1, keepdims=True)


def _check_distribution(logits: Array, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> None:
    layer = "token_distribution"
    check(layer, logits=(logits, "...V"))
    check_floats(layer, logits=logits)
    check_numbers(layer, temperature=temperature, at_least=0)
    if top_k is not None:
        check_counts(layer, top_k=top_k)
    if top_p is not None:
        check_numbers(layer, top_p=top_p, above=0)
    if min_p is not None:
        check_numbers(layer, min_p=min_p, at_least=0)
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if value is not None and value > 1:
            raise ValueError(f"{layer}: {name} is {value!r} but needs a number of at most 1")


def _check_accept(target: Array, draft: Array, drafts: Array, uniforms: Array) -> None:
    layer = "speculative_accept"
    check(layer, draft=(draft, "BTV"), drafts=(drafts, "BT"), uniforms=(uniforms, "BT"))
    check(layer, target=(target, "BSV"))
    check_floats(layer, target=target, draft=draft, uniforms=uniforms)
    check_integers(layer, drafts=drafts)
    batch, count, vocabulary = draft.shape
    if target.shape != (batch, count + 1, vocabulary):
        needed = (batch, count + 1, vocabulary)
        raise ValueError(
            f"{layer}: target has shape {target.shape} but {count} drafts need {needed}: one place more than draft"
        )
    if drafts.size and (drafts.min() < 0 or drafts.max() >= vocabulary):
        raise ValueError(f"{layer}: drafts range from {drafts.min()} to {drafts.max()} but must lie in 0 .. {vocabulary - 1}")
    _check_uniforms(layer, uniforms)


def _check_uniforms(layer: str, uniforms: Array) -> None:
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError(f"{layer}: uniforms must be at least 0 and below 1")
