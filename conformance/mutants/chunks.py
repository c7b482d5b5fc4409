"""Linear attention in chunks that is wrong: within a chunk, or from one to the next."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.mutants.by_name import Arguments, computed
from conformance.mutants.linear_attention import CORRECTING, DECAYING, RULES
from conformance.mutants.mutant import Mutant
from refimpl.numerics import Array


class Chunks:
    """The right rule, of which a fault replaces a part. Heads come first; g [B, H, C, K or 1], beta [B, H, C, 1] or absent."""

    size = 4

    def __call__(self, own: Arguments) -> tuple[Array, Array]:
        v, state, order = own["v"], own["state"], own["order"]
        B, T, H, J = v.shape
        real = np.ones((B, 1, T, 1), bool) if order is None else (order >= 0)[:, None, :, None]

        def heads_first(array: Array) -> Array:
            array = np.repeat(array, H // array.shape[2], axis=2).reshape(B, T, H, -1).swapaxes(1, 2)
            return np.where(real, array, 0).astype(v.dtype)

        q, k, v, g = map(heads_first, (own["q"], own["k"], v, own.get("g", np.zeros((B, T, H), v.dtype))))
        beta = heads_first(own["beta"]) if "beta" in own else None
        S = np.zeros((B, H, k.shape[3], J), v.dtype) if state is None else state
        g, y = self.decays(g), np.zeros_like(v)
        for start in range(0, T, self.size):
            here = np.s_[:, :, start : start + self.size]
            rate = None if beta is None else beta[here]
            y[here], S = self.chunk(q[here], k[here], v[here], g[here], rate, self.handed(S, start))
        return np.where(real, y * v.dtype.type(own["scale"]), 0).swapaxes(1, 2), S

    def chunk(self, q: Array, k: Array, v: Array, g: Array, beta: Array | None, S: Array) -> tuple[Array, Array]:
        written = v if beta is None else self.corrected(k, v, g, beta, S)
        y = self.read(q, k, g, S) + self.seen(q, k, g) @ written
        return y, self.forgotten(g, S) + self.left(k, g, written)

    def decays(self, g: Array) -> Array:
        return g

    def handed(self, S: Array, start: int) -> Array:
        return S

    def between(self, g: Array) -> Array:
        """The decay from token j to token i, [B, H, C, C, K or 1], 0 where j is later."""
        C = g.shape[2]
        sums = np.cumsum(np.where(np.tri(C, k=-1, dtype=bool)[..., None], g[:, :, :, None], 0), axis=2)
        return np.exp(np.where(np.tri(C, dtype=bool)[..., None], sums, -np.inf)).astype(g.dtype)

    def seen(self, q: Array, k: Array, g: Array) -> Array:
        return products(q, k, self.between(g))

    def corrections(self, k: Array, g: Array, beta: Array) -> Array:
        return np.tril(beta * products(k, k, self.between(g)), -1)

    def corrected(self, k: Array, v: Array, g: Array, beta: Array, S: Array) -> Array:
        """What the tokens write, each beside those before it in the chunk."""
        return self.solved(k, g, beta, beta * (v - self.read(k, k, g, S)))

    def solved(self, k: Array, g: Array, beta: Array, written: Array) -> Array:
        system = np.eye(k.shape[2], dtype=k.dtype) + self.corrections(k, g, beta)
        return np.linalg.solve(system, written)

    def read(self, q: Array, k: Array, g: Array, S: Array) -> Array:
        return (q * np.exp(np.cumsum(g, axis=2))) @ S

    def forgotten(self, g: Array, S: Array) -> Array:
        return np.exp(g.sum(axis=2))[..., None] * S

    def left(self, k: Array, g: Array, written: Array) -> Array:
        return (k * self.between(g)[:, :, -1]).swapaxes(2, 3) @ written


def products(q: Array, k: Array, between: Array) -> Array:
    """Of all pairs of tokens, under their decay."""
    return np.einsum("BHIK,BHJK,BHIJK->BHIJ", q, k, np.broadcast_to(between, (*between.shape[:4], k.shape[3])))


class StateDropped(Chunks):
    def handed(self, S: Array, start: int) -> Array:
        return S if start == 0 else np.zeros_like(S)


class SumsOverAll(Chunks):
    """To the first decay of a chunk all those of the chunks before are added."""

    def decays(self, g: Array) -> Array:
        g, sums = g.copy(), np.cumsum(g, axis=2)
        g[:, :, self.size :: self.size] += sums[:, :, self.size - 1 : -1 : self.size]
        return g


class PairsNotDecayed(Chunks):
    def seen(self, q: Array, k: Array, g: Array) -> Array:
        return np.tril(q @ k.swapaxes(2, 3))


class CorrectionsNotDecayed(Chunks):
    def corrections(self, k: Array, g: Array, beta: Array) -> Array:
        return np.tril(beta * (k @ k.swapaxes(2, 3)), -1)


class LaterTokensSeen(Chunks):
    def between(self, g: Array) -> Array:
        sums = np.cumsum(g, axis=2)
        return np.exp(sums[:, :, :, None] - sums[:, :, None])


class OwnTokenNotSeen(Chunks):
    def seen(self, q: Array, k: Array, g: Array) -> Array:
        return np.tril(super().seen(q, k, g), -1)


class CorrectedByItself(Chunks):
    def corrections(self, k: Array, g: Array, beta: Array) -> Array:
        return np.tril(beta * products(k, k, self.between(g)))


class CorrectedOnce(Chunks):
    """The first term of the inverse stands for all of it."""

    def corrected(self, k: Array, v: Array, g: Array, beta: Array, S: Array) -> Array:
        uncorrected = beta * (v - self.read(k, k, g, S))
        written: Array = uncorrected - self.corrections(k, g, beta) @ uncorrected
        return written


class RateOfTheColumn(Chunks):
    def corrections(self, k: Array, g: Array, beta: Array) -> Array:
        return np.tril(beta.swapaxes(2, 3) * products(k, k, self.between(g)), -1)


class BothDecayed(Chunks):
    """In W too, which multiplies the state, pairs decay by what lies between them, but not from the start."""

    def corrected(self, k: Array, v: Array, g: Array, beta: Array, S: Array) -> Array:
        return self.solved(k, g, beta, beta * v) - self.solved(k, g, beta, beta * k) @ S


class StateNotDecayedForQueries(Chunks):
    def read(self, q: Array, k: Array, g: Array, S: Array) -> Array:
        return q @ S if q is not k else super().read(q, k, g, S)


class StateNotForgotten(Chunks):
    def forgotten(self, g: Array, S: Array) -> Array:
        return S


class KeysNotDecayed(Chunks):
    def left(self, k: Array, g: Array, written: Array) -> Array:
        return k.swapaxes(2, 3) @ written


class DecayFromTheStart(Chunks):
    """What a token has written decays by the sum up to it and not from it to the end."""

    def left(self, k: Array, g: Array, written: Array) -> Array:
        return (k * np.exp(np.cumsum(g, axis=2))).swapaxes(2, 3) @ written


class DecayOfTheFirstToken(Chunks):
    def forgotten(self, g: Array, S: Array) -> Array:
        return np.exp(g[:, :, 0])[..., None] * S


class RemainderDropped(Chunks):
    """Tokens beyond the last whole chunk are answered but not handed on."""

    def chunk(self, q: Array, k: Array, v: Array, g: Array, beta: Array | None, S: Array) -> tuple[Array, Array]:
        y, new = super().chunk(q, k, v, g, beta, S)
        return y, new if q.shape[2] == self.size else S


class DecayAlongValues(Chunks):
    """What is written decays along the values by what belongs to the tokens."""

    def left(self, k: Array, g: Array, written: Array) -> Array:
        to_end = self.between(g)[:, :, -1].mean(axis=3)
        along: Any = to_end[:, :, np.resize(np.arange(to_end.shape[2]), written.shape[3])]
        return k.swapaxes(2, 3) @ (written * along[:, :, None])


def _mutant(id: str, says: str, functions: tuple[str, ...], chunks: type[Chunks], *reports: str) -> Mutant:
    faulty = {name: computed(name, chunks()) for name in functions}
    return Mutant(id=id, says=says, reports=reports, functions=faulty)


MUTANTS = (
    _mutant("gdn-chunk-mask-not-decayed", "Pairs within a chunk are not decayed when queries read.", DECAYING, PairsNotDecayed),
    _mutant(
        "chunk-corrections-not-decayed",
        "Pairs within a chunk are not decayed when they correct each other.",
        ("gated_delta_rule",),
        CorrectionsNotDecayed,
    ),
    _mutant(
        "gdn-chunk-upper-triangle-exp-positive",
        "Later tokens of a chunk are seen, grown by the decay.",
        DECAYING,
        LaterTokensSeen,
    ),
    _mutant("gdn-chunk-cumsum-multi-chunk", "Sums of decays run on over the ends of chunks.", DECAYING, SumsOverAll),
    _mutant(
        "gdn-chunk-wy-both-decayed",
        "What is read of the state for corrections is decayed between pairs, not from the start.",
        ("gated_delta_rule",),
        BothDecayed,
    ),
    _mutant(
        "gdn-gate-broadcast-row-vs-column",
        "What a chunk leaves decays along the values and not along its tokens.",
        DECAYING,
        DecayAlongValues,
    ),
    _mutant("chunk-state-dropped", "Every chunk but the first starts with an empty state.", RULES, StateDropped),
    _mutant("chunk-own-token-not-seen", "A token does not read what it has written.", RULES, OwnTokenNotSeen),
    _mutant("chunk-corrected-by-itself", "A token corrects itself as well.", CORRECTING, CorrectedByItself),
    _mutant("chunk-corrected-once", "Corrections of corrections are left out.", CORRECTING, CorrectedOnce),
    _mutant(
        "chunk-rate-of-the-column", "Corrections have the beta of the token that is corrected for.", CORRECTING, RateOfTheColumn
    ),
    _mutant(
        "chunk-state-not-decayed-for-queries",
        "Queries read the state as it was at the start of the chunk.",
        DECAYING,
        StateNotDecayedForQueries,
    ),
    _mutant("chunk-state-not-forgotten", "The state passes a chunk without decay.", DECAYING, StateNotForgotten),
    _mutant("chunk-keys-not-decayed", "What a chunk leaves is not decayed to its end.", DECAYING, KeysNotDecayed),
    _mutant(
        "chunk-decay-from-the-start",
        "What a chunk leaves is decayed from the start and not to the end.",
        DECAYING,
        DecayFromTheStart,
    ),
    _mutant("chunk-decay-of-the-first-token", "The state decays by one token a chunk.", DECAYING, DecayOfTheFirstToken),
    _mutant("chunk-remainder-dropped", "The state lacks the tokens beyond the last whole chunk.", RULES, RemainderDropped),
)
