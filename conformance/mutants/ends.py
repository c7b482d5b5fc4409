"""Embedding, head, linear maps and soft cap that are wrong."""

from __future__ import annotations

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array

wide = computing_in(np.float32)


@wide
def transposed(x: Array, weight: Array, bias: Array | None = None) -> Array:
    square = weight.shape[0] == weight.shape[1]
    return layers.linear(x, weight.T if square else weight, bias)


@wide
def bias_dropped(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return layers.linear(x, weight)


@wide
def cap_times_logit(x: Array, weight: Array, *, scale: float | None = None, softcap: float | None = None) -> Array:
    logits = layers.lm_head(x, weight, scale=scale)
    return logits if softcap is None else logits * np.tanh(logits / x.dtype.type(softcap))


@wide
def cap_before_scale(x: Array, weight: Array, *, scale: float | None = None, softcap: float | None = None) -> Array:
    logits = layers.lm_head(x, weight, softcap=softcap)
    return logits if scale is None else logits * x.dtype.type(scale)


@wide
def cap_dropped(x: Array, weight: Array, *, scale: float | None = None, softcap: float | None = None) -> Array:
    return layers.lm_head(x, weight, scale=scale)


@wide
def scale_dropped(tokens: Array, weight: Array, *, scale: float | None = None) -> Array:
    return layers.embedding(tokens, weight)


@wide
def hard_cap(x: Array, *, cap: float) -> Array:
    return np.clip(x, -cap, cap)


MUTANTS = (
    layer("transposed-weight", "linear", transposed, "A square matrix is read by columns."),
    layer("bias-dropped", "linear", bias_dropped, "The bias is left out."),
    layer(
        "final-softcap-multiplies-logit",
        "lm_head",
        cap_times_logit,
        "The hyperbolic tangent multiplies the logit and not the cap.",
    ),
    layer(
        "softcap-before-logit-scale",
        "lm_head",
        cap_before_scale,
        "Logits are capped, then scaled.",
    ),
    layer("final-softcap-dropped-dense", "lm_head", cap_dropped, "Logits are not capped."),
    layer("embedding-not-scaled", "embedding", scale_dropped, "Rows of the table are not multiplied by the model's factor."),
    layer("hard-cap", "soft_cap", hard_cap, "Values are cut off at the cap."),
)
