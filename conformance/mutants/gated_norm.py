"""Gated norms, and norms of vectors to length one, that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.mutants.by_name import Arguments, computed, given
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.layers.norm import GATES
from refimpl.numerics import Array

NORM = "gated_rms_norm"


def other_activation(own: Arguments) -> Arguments:
    return {"activation": "sigmoid" if own["activation"] == "silu" else "silu"}


def other_order(own: Arguments) -> Arguments:
    return {"gate_first": not own["gate_first"]}


def shifted_gain(own: Arguments) -> Arguments:
    return {"weight": 1 + own["weight"]}


def exchanged(own: Arguments) -> Arguments:
    return {"x": own["gate"], "gate": own["x"]}


def not_activated(own: Arguments) -> Array:
    x, gate, weight, eps = (own[name] for name in ("x", "gate", "weight", "eps"))
    return layers.rms_norm(x * gate, weight, eps=eps) if own["gate_first"] else layers.rms_norm(x, weight, eps=eps) * gate


def not_gated(own: Arguments) -> Array:
    return layers.rms_norm(own["x"], own["weight"], eps=own["eps"])


def gate_normed_as_well(own: Arguments) -> Arguments:
    return {"gate": layers.rms_norm(own["gate"], eps=own["eps"])}


def over_all_heads(own: Arguments) -> Any:
    """The mean is over the heads too, where there are any."""
    x, gate, weight, eps = (own[name] for name in ("x", "gate", "weight", "eps"))
    factor = GATES[own["activation"]](gate)
    inside = x * factor if own["gate_first"] else x
    over = (-2, -1) if x.ndim > 3 else (-1,)
    y = inside / np.sqrt(np.mean(inside * inside, axis=over, keepdims=True) + x.dtype.type(eps)) * weight
    return y if own["gate_first"] else y * factor


def eps_outside_the_root(own: Arguments) -> Any:
    x, gate, weight, eps = (own[name] for name in ("x", "gate", "weight", "eps"))
    factor = GATES[own["activation"]](gate)
    inside = x * factor if own["gate_first"] else x
    y = inside / (np.sqrt(np.mean(inside * inside, axis=-1, keepdims=True)) + x.dtype.type(eps)) * weight
    return y if own["gate_first"] else y * factor


def eps_times_width(own: Arguments) -> Arguments:
    return {"eps": own["eps"] * own["x"].shape[-1]}


MUTANTS = tuple(
    layer(id, function, fault, says)
    for id, function, fault, says in (
        ("gated-norm-sigmoid-vs-silu", NORM, given(NORM, other_activation), "The gate has the activation of another family."),
        ("gated-rmsnorm-gate-before-norm", NORM, given(NORM, other_order), "The gate comes before the norm, or the reverse."),
        ("gated-rmsnorm-zero-centred-confusion", NORM, given(NORM, shifted_gain), "The gain is taken for one around 0."),
        ("gated-norm-exchanged", NORM, given(NORM, exchanged), "The gate is normed and the other factor activated."),
        ("gated-norm-not-activated", NORM, computed(NORM, not_activated), "The gate multiplies as it is."),
        ("gated-norm-not-gated", NORM, computed(NORM, not_gated), "The gate is left out."),
        ("gated-norm-gate-normed", NORM, given(NORM, gate_normed_as_well), "The gate is normed as well."),
        ("gated-norm-over-all-heads", NORM, computed(NORM, over_all_heads), "The mean is over all heads of a token."),
        ("gated-norm-eps-outside-the-root", NORM, computed(NORM, eps_outside_the_root), "eps is added to the root."),
        (
            "gated-norm-another-eps",
            NORM,
            given(NORM, lambda own: {"eps": 1e-6 if own["eps"] != 1e-6 else 1e-5}),
            "eps is that of another norm.",
        ),
        (
            "kda-l2norm-via-rmsnorm-eps-not-rescaled",
            "l2_norm",
            given("l2_norm", eps_times_width),
            "The length is made of an RMS norm, whose eps counts as many times as there are entries.",
        ),
        ("vectors-not-normed", "l2_norm", computed("l2_norm", lambda own: own["x"]), "Vectors keep their length."),
    )
)
