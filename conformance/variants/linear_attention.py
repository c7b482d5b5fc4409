"""Linear attention in other orders: in chunks of several sizes, as matrices, with its decay, scale and correction elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from conformance.mutants.by_name import Arguments, computed
from conformance.mutants.chunks import Chunks
from conformance.mutants.linear_attention import CORRECTING, RULES, Token, outer, read, recurrence
from conformance.variants.variant import Function, Variant, layer
from refimpl import layers
from refimpl.numerics import Array

Results = tuple[Array, Array]
WITHOUT_CORRECTION = tuple(name for name in RULES if name not in CORRECTING)


def _rules(compute: Callable[[Arguments], Results], names: Iterable[str] = RULES) -> dict[str, Function]:
    return {name: computed(name, compute) for name in names}


# No release that corrects has longer chunks than 64: what rounding does there grows with the system that a chunk solves.
LONG = 64


def _in_chunks(size: int) -> dict[str, Function]:
    def chunked(name: str, own: Arguments) -> Any:
        return getattr(layers, f"{name}_chunked")(**own, chunk_size=size)

    names = (*RULES, "ssd") if size <= LONG else (*WITHOUT_CORRECTION, "ssd")
    return {name: computed(name, partial(chunked, name)) for name in names}


class _UpdatesAndReadsApart(Chunks):
    """U and W of the WY form: what the values write, less what is read of the state."""

    size = 16

    def corrected(self, k: Array, v: Array, g: Array, beta: Array, S: Array) -> Array:
        return self.solved(k, g, beta, beta * v) - self.solved(k, g, beta, beta * k * np.exp(np.cumsum(g, axis=2))) @ S


class _RowByRow(Chunks):
    """A token's update is corrected by those before it, once these are known."""

    size = LONG

    def solved(self, k: Array, g: Array, beta: Array, written: Array) -> Array:
        corrections, found = self.corrections(k, g, beta), written.copy()
        for row in range(1, found.shape[2]):
            found[:, :, row] -= (corrections[:, :, row, None, :row] @ found[:, :, :row])[:, :, 0]
        return found


def _read_before_decay(S: Array, at: Token) -> Array:
    """What is read of the state is decayed, in the key, before the state itself is."""
    written = at.v if at.beta is None else at.beta * (at.v - read(S, at.k * at.decay[..., 0]))
    return S * at.decay + outer(at.k, written)


def _as_a_matrix(S: Array, at: Token) -> Array:
    """(I - β k kᵀ) times the decayed state, plus β k vᵀ; the state lies on its side."""
    identity = np.eye(at.k.shape[-1], dtype=S.dtype)
    turned = (S * at.decay).swapaxes(2, 3) @ (identity - outer(at.beta * at.k, at.k)) + outer(at.v, at.beta * at.k)
    return turned.swapaxes(2, 3)


def _taken_out_and_put_in(S: Array, at: Token) -> Array:
    """What a key held is taken out, then the new value put in."""
    held = S * at.decay
    held = held - outer(at.k, at.beta * read(held, at.k))
    return held + outer(at.beta * at.k, at.v)


def _decay_as_a_power_of_two(S: Array, at: Token) -> Array:
    held = S * np.exp2(np.log(at.decay) * S.dtype.type(np.log2(np.e)))
    return held + outer(at.k, at.v if at.beta is None else at.beta * (at.v - read(held, at.k)))


def _channels_backwards(own: Arguments) -> Results:
    """Keys, queries and the state with their channels in the other order."""
    turned: Arguments = {name: own[name][..., ::-1] for name in ("q", "k")}
    turned["state"] = None if own["state"] is None else own["state"][:, :, ::-1]
    if own.get("g") is not None and own["g"].ndim == 4:
        turned["g"] = own["g"][..., ::-1]
    y, state = recurrence({**own, **turned})
    return y, state[:, :, ::-1]


def _scale_on_the_query(own: Arguments) -> Results:
    return recurrence({**own, "q": own["q"] * own["q"].dtype.type(own["scale"]), "scale": 1.0})


def _one_text_after_the_other(own: Arguments) -> Results:
    """Every row alone, without its padding."""
    rows = []
    for row in range(len(own["v"])):
        real = np.ones(own["v"].shape[1], bool) if own["order"] is None else own["order"][row] >= 0
        mine: Arguments = {name: own[name][row : row + 1][:, real] for name in ("q", "k", "v", "g", "beta") if name in own}
        state = None if own["state"] is None else own["state"][row : row + 1]
        y = np.zeros_like(own["v"][row : row + 1])
        y[:, real], S = recurrence({**mine, "state": state, "order": None, "scale": own["scale"]})
        rows.append((y, S))
    return np.concatenate([y for y, _ in rows]), np.concatenate([S for _, S in rows])


def _state_space_as_mamba_has_it(own: Arguments) -> Results:
    """The state is [J, K]; the step multiplies the input matrix first."""
    x, dt, b, c, d = (own[name] for name in ("x", "dt", "b", "c", "d"))
    (B, T, H, J), K = x.shape, b.shape[3]
    b, c = (np.repeat(each, H // b.shape[2], axis=2) for each in (b, c))
    real = np.ones((B, T), bool) if own["order"] is None else own["order"] >= 0
    S = np.zeros((B, H, J, K), x.dtype) if own["state"] is None else own["state"].swapaxes(2, 3)
    y = np.zeros_like(x)
    for t in range(T):
        written = (dt[:, t, :, None] * b[:, t])[:, :, None] * x[:, t, ..., None]
        new = S * np.exp(dt[:, t] * own["a"])[..., None, None] + written
        S = np.where(real[:, t, None, None, None], new, S)
        found = np.einsum("BHJK,BHK->BHJ", new, c[:, t])
        found = found if d is None else found + x[:, t] * d[:, None]
        y[:, t] = np.where(real[:, t, None, None], found, 0)
    return y, S.swapaxes(2, 3)


def _variant(id: str, says: str, functions: dict[str, Function]) -> Variant:
    return layer(id, says, **functions)


VARIANTS = (
    *(
        _variant(f"chunks-of-{size}", f"The recurrences in chunks of {size} tokens.", _in_chunks(size))
        for size in (1, 5, 16, 32, 64, 128, 256)
    ),
    _variant(
        "chunks-with-u-and-w-apart",
        "Chunks of 16 whose values and whose reading of the state are solved for apart.",
        _rules(_UpdatesAndReadsApart()),
    ),
    _variant(
        "chunks-solved-row-by-row",
        "Chunks of 64 in which a token's update is corrected by those before it, one after the other.",
        _rules(_RowByRow(), CORRECTING),
    ),
    _variant(
        "read-before-it-decays",
        "What is read of the state is decayed, in the key, before the state itself is.",
        _rules(partial(recurrence, after=_read_before_decay)),
    ),
    _variant(
        "correction-as-a-matrix",
        "The state, which lies on its side, is multiplied by I - beta k k^T.",
        _rules(partial(recurrence, after=_as_a_matrix), CORRECTING),
    ),
    _variant(
        "old-value-taken-out-first",
        "What a key held is taken out, then the new value put in.",
        _rules(partial(recurrence, after=_taken_out_and_put_in), CORRECTING),
    ),
    _variant(
        "decay-as-a-power-of-two",
        "The decay is exp2 of its logarithm to base two.",
        _rules(partial(recurrence, after=_decay_as_a_power_of_two)),
    ),
    _variant(
        "channels-of-keys-backwards",
        "Keys, queries and the state with their channels in the other order.",
        _rules(_channels_backwards),
    ),
    _variant(
        "scale-on-the-query-of-the-state",
        "The scale multiplies the query before the state is read.",
        _rules(_scale_on_the_query),
    ),
    _variant("one-text-after-the-other", "Every row alone, without its padding.", _rules(_one_text_after_the_other)),
    layer(
        "state-on-its-side",
        "The state is [J, K], and the step multiplies the input matrix first.",
        ssd=computed("ssd", _state_space_as_mamba_has_it),
    ),
)
