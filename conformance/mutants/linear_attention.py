"""Linear attention that is wrong: what a step of its recurrence does, its heads, its scale, its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from conformance.family import ALL_DTYPES
from conformance.mutants.by_name import Arguments, computed, given
from conformance.mutants.mutant import Mutant
from refimpl.layers import VOCABULARY
from refimpl.numerics import Array

DECAYING = ("gated_linear_attention", "gated_delta_rule")
CORRECTING = ("delta_rule", "gated_delta_rule")
RULES = ("linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule")


class Token(NamedTuple):
    """q, k, v [B, H, K or J], the decay [B, H, K or 1, 1] of what is held, beta [B, H, 1] where the rule corrects."""

    q: Array
    k: Array
    v: Array
    decay: Array
    beta: Array | None


def read(S: Array, key: Array) -> Array:
    """What the state holds for a key."""
    held: Array = np.einsum("BHKJ,BHK->BHJ", S, key)
    return held


def outer(k: Array, v: Array) -> Array:
    """What a key and a value write."""
    return k[..., None] * v[..., None, :]


def writing(S: Array, at: Token) -> Array:
    """What the rule writes for the token's key into a state that has decayed."""
    return at.v if at.beta is None else at.beta * (at.v - read(S, at.k))


def recurrence(
    arguments: Arguments,
    *,
    after: Callable[[Array, Token], Array] = lambda S, at: S * at.decay + outer(at.k, writing(S * at.decay, at)),
    reads: Callable[[Array, Array, Token], Array] = lambda before, after, at: after,
    kept: Callable[[Array], Array] = lambda S: S,
) -> tuple[Array, Array]:
    """The recurrence over the real tokens: the state after a token, the one that its query reads, and what is kept of it."""
    q, k, v, g, beta, state, order = (arguments.get(name) for name in ("q", "k", "v", "g", "beta", "state", "order"))
    assert q is not None
    assert k is not None
    assert v is not None
    (B, T, H, J), K = v.shape, k.shape[3]
    q, k = (np.repeat(each, H // k.shape[2], axis=2) for each in (q, k))
    decay = np.ones((B, T, H, 1), v.dtype) if g is None else np.exp(g if g.ndim == 4 else g[..., None])
    real = np.ones((B, T), bool) if order is None else order >= 0
    S, y = np.zeros((B, H, K, J), v.dtype) if state is None else state, np.zeros_like(v)
    for t in range(T):
        rate = None if beta is None else beta[:, t, :, None]
        at = Token(q[:, t], k[:, t], v[:, t], decay[:, t, :, :, None], rate)
        new = after(S, at)
        y[:, t] = np.where(real[:, t, None, None], read(reads(S, new, at), at.q) * v.dtype.type(arguments["scale"]), 0)
        S = np.where(real[:, t, None, None, None], kept(new), S)
    return y, S


def own_token_decayed(S: Array, at: Token) -> Array:
    return (S + outer(at.k, writing(S, at))) * at.decay


def corrected_against_the_undecayed(S: Array, at: Token) -> Array:
    return S * at.decay + outer(at.k, writing(S, at))


def rate_on_values_alone(S: Array, at: Token) -> Array:
    held = S * at.decay
    return held + outer(at.k, at.beta * at.v - read(held, at.k))


def rate_on_the_key_twice(S: Array, at: Token) -> Array:
    return corrected_for(S, at, at.beta * at.k)


def rate_on_the_correction_alone(S: Array, at: Token) -> Array:
    held = S * at.decay
    return held + outer(at.k, at.v - at.beta * read(held, at.k))


def corrected_for(S: Array, at: Token, key: Array) -> Array:
    held = S * at.decay
    return held + outer(at.k, at.beta * (at.v - read(held, key)))


def correction_added(S: Array, at: Token) -> Array:
    return corrected_for(S, at, -at.k)


def not_corrected(S: Array, at: Token) -> Array:
    return S * at.decay + outer(at.k, at.beta * at.v)


def corrected_by_the_query(S: Array, at: Token) -> Array:
    return corrected_for(S, at, at.q)


def decay_along_values(S: Array, at: Token) -> Array:
    """A decay a channel is laid along the other axis of the state; where that is longer it starts anew."""
    along = at.decay[:, :, np.resize(np.arange(at.decay.shape[2]), S.shape[3]), 0][:, :, None]
    return S * along + outer(at.k, writing(S * along, at))


def rounded_to(dtype: Any) -> Callable[[Array], Array]:
    return lambda S: S.astype(dtype).astype(S.dtype)


def tiled(arguments: Arguments) -> Arguments:
    """Value head h goes with key head h mod G."""
    ratio = arguments["v"].shape[2] // arguments["k"].shape[2]
    return {name: np.tile(arguments[name], (1, 1, ratio, 1)) for name in ("q", "k")}


def keys_normed_inside(arguments: Arguments) -> Arguments:
    return {"k": VOCABULARY["l2_norm"](arguments["k"], eps=1e-6)}


def queries_normed_inside(arguments: Arguments) -> Arguments:
    return {"q": VOCABULARY["l2_norm"](arguments["q"], eps=1e-6)}


def scale_on_the_key(arguments: Arguments) -> Arguments:
    return {"k": arguments["k"] * arguments["k"].dtype.type(arguments["scale"]), "scale": 1.0}


def rate_in_bfloat16(arguments: Arguments) -> Arguments:
    return {"beta": rounded_to(ml_dtypes.bfloat16)(arguments["beta"])}


def decay_in_bfloat16(arguments: Arguments) -> Arguments:
    return {"g": rounded_to(ml_dtypes.bfloat16)(arguments["g"])}


def decay_of_the_mean_channel(arguments: Arguments) -> Arguments:
    g = arguments["g"]
    return {"g": g if g.ndim == 3 else np.repeat(g.mean(axis=3, keepdims=True), g.shape[3], axis=3)}


def decay_to_first_order(arguments: Arguments) -> Arguments:
    """1 + g for e to the g, and nothing below 0."""
    return {"g": np.log(np.maximum(1 + arguments["g"], np.finfo(arguments["g"].dtype).tiny))}


def _step(id: str, says: str, functions: Sequence[str], *reports: str, dtypes: Any = ALL_DTYPES, **faults: Any) -> Mutant:
    """A recurrence with a fault."""
    faulty = {name: computed(name, partial(recurrence, **faults)) for name in functions}
    return Mutant(id=id, says=says, reports=reports, functions=faulty, dtypes=dtypes)


def given_to_rules(
    id: str, says: str, functions: Sequence[str], change: Any, *reports: str, dtypes: Any = ALL_DTYPES
) -> Mutant:
    """The right functions of other arguments."""
    faulty = {name: given(name, change) for name in functions}
    return Mutant(id=id, says=says, reports=reports, functions=faulty, dtypes=dtypes)


STEPS = (
    _step(
        "read-before-write",
        "A query reads the state before its own token has written.",
        RULES,
        reads=lambda S, new, at: S * at.decay,
    ),
    _step("own-token-decayed", "The decay comes after a token has written.", DECAYING, after=own_token_decayed),
    _step(
        "corrected-against-the-undecayed",
        "The correction looks at the state before its decay.",
        ("gated_delta_rule",),
        after=corrected_against_the_undecayed,
    ),
    _step("rate-on-values-alone", "Beta multiplies the value and not what is held.", CORRECTING, after=rate_on_values_alone),
    _step(
        "rate-on-the-correction-alone",
        "Beta multiplies what is held and not the value.",
        CORRECTING,
        after=rate_on_the_correction_alone,
    ),
    _step(
        "rate-on-the-key-twice",
        "Beta multiplies the key, also where it reads what is held.",
        CORRECTING,
        after=rate_on_the_key_twice,
    ),
    _step("correction-added", "What is held is added to the value.", CORRECTING, after=correction_added),
    _step("not-corrected", "A value is written whatever is held.", CORRECTING, after=not_corrected),
    _step(
        "corrected-by-the-query",
        "What is held is read by the query and not by the key.",
        CORRECTING,
        after=corrected_by_the_query,
    ),
    _step("decay-along-values", "A decay a channel is applied along the values.", DECAYING, after=decay_along_values),
    _step(
        "gdn-state-stored-in-model-dtype",
        "The state is rounded to bfloat16 after each token.",
        RULES,
        kept=rounded_to(ml_dtypes.bfloat16),
    ),
    _step("state-in-float16", "The state is rounded to float16 after each token.", RULES, kept=rounded_to(np.float16)),
)
ARGUMENTS = (
    given_to_rules("gdn-gva-tile-instead-of-interleave", "Key heads are tiled, not repeated one by one.", RULES, tiled),
    given_to_rules("query-not-scaled", "The scale is left out.", RULES, lambda _: {"scale": 1.0}),
    given_to_rules("scale-twice", "The scale multiplies the query twice.", RULES, lambda own: {"scale": own["scale"] ** 2}),
    given_to_rules("scale-on-the-key", "The scale multiplies the key and so the state.", RULES, scale_on_the_key),
    given_to_rules("keys-normed-inside", "Keys are brought to length one inside.", RULES, keys_normed_inside),
    given_to_rules("queries-normed-inside", "Queries are brought to length one inside.", RULES, queries_normed_inside),
    given_to_rules("decay-to-first-order", "A state decays by 1 + g and not by e to the g.", DECAYING, decay_to_first_order),
    given_to_rules("decay-ignored", "Nothing is forgotten.", DECAYING, lambda own: {"g": np.zeros_like(own["g"])}),
    given_to_rules(
        "decay-of-the-next-token", "Decays are one token early.", DECAYING, lambda own: {"g": np.roll(own["g"], -1, axis=1)}
    ),
    given_to_rules("decay-of-the-mean-channel", "All channels decay by their mean.", DECAYING, decay_of_the_mean_channel),
    given_to_rules("decay-in-bfloat16", "The logarithm of the decay is rounded to bfloat16.", DECAYING, decay_in_bfloat16),
    given_to_rules(
        "gdn-beta-rounded-bf16-sglang",
        "Beta is rounded to bfloat16.",
        CORRECTING,
        rate_in_bfloat16,
        dtypes=("float64", "float32", "float16"),
    ),
)
MUTANTS = STEPS + ARGUMENTS
