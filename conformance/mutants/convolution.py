"""Causal convolutions that are wrong: their taps, their state, their padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.mutants.by_name import Arguments, computed, given
from conformance.mutants.mutant import Function, Mutant, layer
from refimpl import layers
from refimpl.numerics import Array

CONV = "causal_conv1d"
Results = tuple[Array, Array]


def taps_reversed(own: Arguments) -> Arguments:
    return {"weight": own["weight"][:, ::-1]}


def taps_of_the_next_channel(own: Arguments) -> Arguments:
    return {"weight": np.roll(own["weight"], 1, axis=0)}


def taps_first_in_memory(own: Arguments) -> Arguments:
    return {"weight": own["weight"].reshape(own["weight"].shape[::-1]).T}


def first_tap_dropped(own: Arguments) -> Arguments:
    weight = own["weight"].copy()
    weight[:, 0] = 0
    return {"weight": weight}


def of_the_state(change: Callable[[Array], Array]) -> Callable[[Arguments], Arguments]:
    """Another state is read where there is one."""
    return lambda own: {} if own["state"] is None else {"state": change(own["state"])}


def without_the_oldest(state: Array) -> Array:
    return np.concatenate([np.zeros_like(state[:, :, :1]), state[:, :, 1:]], axis=2)


def one_further(state: Array) -> Array:
    """As of a state of W inputs, of which the last W - 1 are read though the newest is empty."""
    return np.concatenate([state[:, :, 1:], np.zeros_like(state[:, :, :1])], axis=2)


def padding_as_zeros(own: Arguments) -> Arguments:
    order = own["order"]
    return {} if order is None else {"x": np.where((order < 0)[..., None], 0, own["x"]).astype(own["x"].dtype), "order": None}


def looking_ahead(y: Array, state: Array, own: Arguments) -> Results:
    """The last T of the T + W - 1 tokens that a padding on both sides gives."""
    T, W = own["x"].shape[1], own["weight"].shape[1]
    ahead = np.pad(own["x"], ((0, 0), (0, W - 1), (0, 0)))
    y = np.sum([ahead[:, tap : tap + T] * own["weight"][:, tap] for tap in range(W)], axis=0)
    return y if own["bias"] is None else y + own["bias"], state


def bias_where_padding_is(y: Array, state: Array, own: Arguments) -> Results:
    if own["order"] is None or own["bias"] is None:
        return y, state
    return np.where((own["order"] < 0)[..., None], own["bias"], y), state


def activated(y: Array, state: Array, own: Arguments) -> Results:
    return layers.silu(y), state


def state_of_the_results(y: Array, state: Array, own: Arguments) -> Results:
    """What is handed over has been convolved already, where the piece is long enough."""
    width = state.shape[2]
    return y, y[:, -width:].swapaxes(1, 2) if 0 < width <= y.shape[1] else state


def state_after_the_activation(y: Array, state: Array, own: Arguments) -> Results:
    return y, layers.silu(state)


def state_of_the_first_inputs(y: Array, state: Array, own: Arguments) -> Results:
    width = state.shape[2]
    return y, own["x"][:, :width].swapaxes(1, 2) if width <= y.shape[1] else state


def state_of_the_last_columns(y: Array, state: Array, own: Arguments) -> Results:
    """The last columns are kept, padding or not."""
    past = np.zeros_like(state) if own["state"] is None else own["state"]
    seen = np.concatenate([past, own["x"].swapaxes(1, 2)], axis=2)
    return y, seen[:, :, seen.shape[2] - state.shape[2] :]


def state_of_this_piece_alone(y: Array, state: Array, own: Arguments) -> Results:
    """Where a piece is shorter than the state, zeros stand for what came before it."""
    return y, layers.causal_conv1d(**{**own, "state": None})[1]


def state_not_moved(y: Array, state: Array, own: Arguments) -> Results:
    """A token alone leaves the state as it was."""
    return y, own["state"] if own["state"] is not None and own["x"].shape[1] == 1 else state


def row_after_row(own: Arguments) -> Results:
    """Rows are texts packed one behind the other, and the window reaches into the one before."""
    rows: list[Results] = []
    for row in range(len(own["x"])):
        order, state = own["order"], own["state"]
        before = rows[-1][1] if rows else None if state is None else state[:1]
        piece = {"x": own["x"][row : row + 1], "state": before, "order": None if order is None else order[row : row + 1]}
        rows.append(layers.causal_conv1d(**{**own, **piece}))
    return np.concatenate([y for y, _ in rows]), np.concatenate([state for _, state in rows])


def _answering(change: Callable[[Array, Array, Arguments], Results]) -> Function:
    """Other results than the right ones: change(y, state, arguments)."""
    return computed(CONV, lambda own: change(*layers.causal_conv1d(**own), own))


def _mutants(made_by: Callable[[Any], Function], *faults: tuple[Any, ...]) -> tuple[Mutant, ...]:
    return tuple(layer(id, CONV, made_by(fault), says, *reports) for id, fault, says, *reports in faults)


MUTANTS = (
    *_mutants(
        lambda change: given(CONV, change),
        ("conv-taps-reversed", taps_reversed, "The first tap multiplies the current token."),
        ("conv-taps-of-the-next-channel", taps_of_the_next_channel, "Each channel has the taps of another."),
        ("conv-taps-first-in-memory", taps_first_in_memory, "The memory of the taps is read in the other order of its axes."),
        ("conv-first-tap-dropped", first_tap_dropped, "The window is one token too short."),
        ("conv-bias-dropped", lambda own: {"bias": None}, "The bias is left out."),
        ("conv-state-ignored", lambda own: {"state": None}, "Each call starts with zeros."),
        ("conv-state-newest-first", of_the_state(lambda s: s[:, :, ::-1]), "The state is read from the newest input on."),
        ("conv-state-one-short", of_the_state(without_the_oldest), "The oldest input of the state is missing."),
        ("conv-state-one-further", of_the_state(one_further), "The state of W inputs is read where W - 1 are needed."),
        (
            "conv-state-of-the-first-row",
            of_the_state(lambda s: np.repeat(s[:1], len(s), axis=0)),
            "All rows start with the state of the first.",
        ),
        ("conv-padding-taken-for-tokens", lambda own: {"order": None}, "Padding is convolved like tokens."),
        ("conv-padding-as-zeros", padding_as_zeros, "Padding is set to zero and then taken for tokens."),
    ),
    *_mutants(
        _answering,
        ("conv-output-not-truncated", looking_ahead, "Of a result that is padded on both sides the last tokens are taken."),
        ("conv-bias-where-padding-is", bias_where_padding_is, "The result of padding is the bias and not 0."),
        ("conv-activated", activated, "The result has gone through SiLU already."),
        ("conv-state-of-the-results", state_of_the_results, "The state holds results and not inputs."),
        ("conv-state-after-the-activation", state_after_the_activation, "The state holds inputs that went through SiLU."),
        ("conv-state-of-the-first-inputs", state_of_the_first_inputs, "The state holds the first inputs of a piece."),
        ("conv-state-of-the-last-columns", state_of_the_last_columns, "The state holds the last columns, padding too."),
        ("conv-state-of-this-piece-alone", state_of_this_piece_alone, "What came before a short piece is lost to the next."),
        ("conv-state-not-moved", state_not_moved, "A token that comes alone does not enter the state."),
    ),
    layer(
        "conv-packed-boundary-bleed",
        CONV,
        computed(CONV, row_after_row),
        "The window of a text's first tokens reaches into the text before it.",
        "conv-packed-slice-wrong-axis",
    ),
)
