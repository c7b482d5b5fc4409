"""Selective state spaces that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.mutants.by_name import Arguments, computed, given
from conformance.mutants.linear_attention import recurrence
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array

SSD = "ssd"


def tiled(own: Arguments) -> Arguments:
    ratio = own["x"].shape[2] // own["b"].shape[2]
    return {name: np.tile(own[name], (1, 1, ratio, 1)) for name in ("b", "c")}


def step_left_out_of_the_input(own: Arguments) -> Any:
    y, state = layers.gated_linear_attention(
        own["c"], own["b"], own["x"], own["dt"] * own["a"], own["state"], own["order"], scale=1.0
    )
    return _with_skip(y, own), state


def step_left_out_of_the_decay(own: Arguments) -> Any:
    g = np.broadcast_to(own["a"], own["dt"].shape)
    y, state = layers.gated_linear_attention(
        own["c"], own["b"], own["x"] * own["dt"][..., None], g, own["state"], own["order"], scale=1.0
    )
    return _with_skip(y, own), state


def input_held(own: Arguments) -> Any:
    """The input is integrated over the step as the decay is: (e^(dt a) - 1) / a for dt."""
    held = np.expm1(own["dt"] * own["a"]) / own["a"]
    y, state = layers.gated_linear_attention(
        own["c"], own["b"], own["x"] * held[..., None], own["dt"] * own["a"], own["state"], own["order"], scale=1.0
    )
    return _with_skip(y, own), state


def scaled_like_attention(own: Arguments) -> Any:
    y, state = layers.ssd(**{**own, "c": own["c"] * own["c"].dtype.type(own["c"].shape[-1] ** -0.5)})
    return y, state


def skip_of_what_is_written(own: Arguments) -> Any:
    """d multiplies dt x."""
    y, state = layers.ssd(**{**own, "d": None})
    return _with_skip(y, {**own, "x": own["x"] * own["dt"][..., None]}), state


def skip_where_padding_is(own: Arguments) -> Any:
    y, state = layers.ssd(**{**own, "d": None})
    return y if own["d"] is None else y + own["d"][:, None] * own["x"], state


def read_before_write(own: Arguments) -> Any:
    attended = {
        "q": own["c"],
        "k": own["b"],
        "v": own["x"] * own["dt"][..., None],
        "g": own["dt"] * own["a"],
        "scale": 1.0,
        "state": own["state"],
        "order": own["order"],
    }
    y, state = recurrence(attended, reads=lambda S, new, at: S * at.decay)
    return _with_skip(y, own), state


def state_transposed(own: Arguments) -> Arguments:
    """The memory of a state [B, H, J, K], as Mamba's kernels keep it, is taken for one of [B, H, K, J]."""
    state = own["state"]
    return {} if state is None else {"state": np.ascontiguousarray(state.swapaxes(2, 3)).reshape(state.shape)}


def _with_skip(y: Array, own: Arguments) -> Array:
    if own["d"] is None:
        return y
    skipped = own["d"][:, None] * own["x"]
    return y + (skipped if own["order"] is None else np.where((own["order"] >= 0)[..., None, None], skipped, 0))


MUTANTS = tuple(
    layer(id, SSD, fault, says)
    for id, fault, says in (
        ("ssd-skip-left-out", given(SSD, lambda own: {"d": None}), "d x is left out."),
        ("ssd-skip-of-what-is-written", computed(SSD, skip_of_what_is_written), "d multiplies dt x and not x."),
        ("ssd-skip-where-padding-is", computed(SSD, skip_where_padding_is), "Padding has d x for its result."),
        ("ssd-step-left-out-of-the-input", computed(SSD, step_left_out_of_the_input), "x is written, not dt x."),
        ("ssd-step-left-out-of-the-decay", computed(SSD, step_left_out_of_the_decay), "The decay is e^a, not e^(dt a)."),
        ("ssd-input-held", computed(SSD, input_held), "The input is integrated exactly, as other state spaces do."),
        ("ssd-scaled-like-attention", computed(SSD, scaled_like_attention), "The result is divided by the root of K."),
        ("ssd-read-before-write", computed(SSD, read_before_write), "The state is read before its own token is written."),
        ("ssd-in-and-out-exchanged", given(SSD, lambda own: {"b": own["c"], "c": own["b"]}), "b and c are exchanged."),
        ("ssd-groups-tiled", given(SSD, tiled), "Groups of b and c are tiled over the heads, not repeated one by one."),
        ("ssd-rate-for-its-logarithm", given(SSD, lambda own: {"a": -np.exp(own["a"])}), "a is taken for its logarithm."),
        ("ssd-padding-written", given(SSD, lambda own: {"order": None}), "Padding is taken for tokens."),
        ("ssd-state-ignored", given(SSD, lambda own: {"state": None}), "Each call starts with an empty state."),
        ("ssd-state-transposed", given(SSD, state_transposed), "A state is read with its two axes exchanged."),
    )
)
