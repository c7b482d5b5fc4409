"""The two ends of a model: tokens to vectors, vectors to logits."""

from __future__ import annotations

from refimpl.layers.attention import soft_cap
from refimpl.layers.mlp import linear
from refimpl.numerics import Array, scalar_like
from refimpl.shapes import check, check_floats, check_integers, check_numbers


def embedding(tokens: Array, weight: Array, *, scale: float | None = None) -> Array:
    """Rows of the embedding table.

    y_t = weight[tokens_t] · scale

    Shapes: tokens int [B, T], weight [V, D]; y [B, T, D].
    Rules:
      R1  a token outside 0 .. V-1 is an error, never wrapped.
      R2  the scale multiplies here alone, not the table: a tied head uses the table unscaled.
    Dtype: T1  the scale is rounded to the model's format before the product (Gemma: √D in bfloat16).
           This function computes in the dtype of weight.
    Source: Gemma release (scale √D).
    """
    sizes = check("embedding", tokens=(tokens, "BT"), weight=(weight, "VD"))
    check_integers("embedding", tokens=tokens)
    check_floats("embedding", weight=weight)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < sizes["V"]):
        raise ValueError(f"embedding: tokens range from {tokens.min()} to {tokens.max()} but must lie in 0 .. {sizes['V'] - 1}")
    rows_BTD = weight[tokens]
    if scale is None:
        return rows_BTD
    check_numbers("embedding", scale=scale)
    return rows_BTD * scalar_like(scale, weight)


def lm_head(x: Array, weight: Array, *, scale: float | None = None, softcap: float | None = None) -> Array:
    """Logits over the vocabulary.

    y = cap(scale · x Wᵀ)          cap(l) = softcap · tanh(l / softcap), the identity without softcap

    Shapes: x [B, T, D], weight [V, D] (the embedding table where the head is tied); y [B, T, V].
    Rules: R1  the scale comes before the cap.
    Dtype: T1  as `linear`, then scale and cap in the same format. This function computes in the dtype of x.
    Pitfalls: the cap dropped or doubled (final-softcap-dropped-dense), multiplied by the logit
      (final-softcap-multiplies-logit), or before the scale (softcap-before-logit-scale).
    Source: Gemma 2, arXiv:2408.00118; Grok 2 release (scale).
    """
    check("lm_head", x=(x, "BTD"), weight=(weight, "VD"))
    logits_BTV = linear(x, weight)
    if scale is not None:
        check_numbers("lm_head", scale=scale)
        logits_BTV = logits_BTV * scalar_like(scale, x)
    return logits_BTV if softcap is None else soft_cap(logits_BTV, cap=softcap)
