"""Norms: activations of the size of sqrt(eps), large gains, a large mean."""

from __future__ import annotations

import numpy as np

from conformance.family import Family, Inputs, Values, edge


def rms_norm(
    values: Values,
    *,
    shape: tuple[int, ...],
    eps: float,
    magnitude: float = 1.0,
    weight: float | None = 1.0,
    zero_centred: bool = False,
) -> Inputs:
    """Rows of size `magnitude`, `weight` the spread of the gain (None: no gain)."""
    arguments = {"x": magnitude * values.standard_normal(shape)}
    if weight is not None:
        centre = 0.0 if zero_centred else 1.0
        arguments["weight"] = centre + weight * values.standard_normal(shape[-1])
    return Inputs(arguments, {"eps": eps, **({"zero_centred": True} if zero_centred else {})})


def layer_norm(
    values: Values, *, shape: tuple[int, ...], eps: float, magnitude: float = 1.0, mean: float = 0.0, bias: bool = True
) -> Inputs:
    """`mean` is in units of what the format leaves of the deviations: 1 loses a thousandth of them."""
    offset = magnitude * min(300.0, mean * 1e-3 / values.roundoff)
    arguments = {
        "x": offset + magnitude * values.standard_normal(shape),
        "weight": 1 + 0.5 * values.standard_normal(shape[-1]),
    }
    if bias:
        arguments["bias"] = values.standard_normal(shape[-1])
    return Inputs(arguments, {"eps": eps})


def gated_rms_norm(
    values: Values,
    *,
    shape: tuple[int, ...],
    eps: float,
    activation: str,
    gate_first: bool = False,
    magnitude: float = 1.0,
    gates: float = 2.0,
) -> Inputs:
    """Rows of size `magnitude` behind gates of the size `gates`."""
    arguments = {
        "x": magnitude * values.standard_normal(shape),
        "gate": gates * values.standard_normal(shape),
        "weight": 1 + 0.5 * values.standard_normal(shape[-1]),
    }
    return Inputs(arguments, {"eps": eps, "activation": activation, **({"gate_first": True} if gate_first else {})})


def l2_norm(values: Values, *, shape: tuple[int, ...], eps: float, magnitude: float = 1.0) -> Inputs:
    """Vectors of length `magnitude`."""
    return Inputs({"x": magnitude / np.sqrt(shape[-1]) * values.standard_normal(shape)}, {"eps": eps})


SMALL = (2, 5, 24)
FAMILIES = (
    Family(
        function="rms_norm",
        build=rms_norm,
        axes=("",),
        edges=(
            edge("plain", "any", "b2t5d24", "R2", shape=SMALL, eps=1e-6),
            edge("tiny", "any", "b2t5d24", "R1", shape=SMALL, eps=1e-5, magnitude=3e-3),
            edge("large_eps", "any", "t7d10", "R1", shape=(7, 10), eps=0.25, magnitude=0.5),
            edge("no_weight", "any", "b2t5d24", "R4", shape=SMALL, eps=1e-5, weight=None),
            edge("heads", "any", "b2t3h5k8", "R2", shape=(2, 3, 5, 8), eps=1e-6, magnitude=2.0),
            edge("zero_centred", "any", "b2t5d24", "R3", shape=SMALL, eps=1e-6, weight=0.5, zero_centred=True),
            edge("zero_centred_large", "any", "b2t5d24", "R3", shape=SMALL, eps=1e-6, weight=4.0, zero_centred=True),
            edge("zero_centred_tiny", "any", "t3d6", "R1", "R3", shape=(3, 6), eps=1e-5, magnitude=3e-3, zero_centred=True),
            edge("one_row", "decode", "t1d7", "R2", shape=(1, 7), eps=1e-6),
        ),
    ),
    Family(
        function="layer_norm",
        build=layer_norm,
        axes=("",),
        edges=(
            edge("plain", "any", "b2t5d24", "R3", shape=SMALL, eps=1e-5),
            edge("narrow", "any", "t5d6", "R1", shape=(5, 6), eps=1e-5),
            edge("no_bias", "any", "t5d6", "R1", shape=(5, 6), eps=1e-5, bias=False),
            edge("tiny", "any", "b2t5d8", "R2", shape=(2, 5, 8), eps=1e-5, magnitude=3e-3),
            edge("large_mean", "any", "b2t5d24", "R1", shape=SMALL, eps=1e-5, mean=1.0),
        ),
    ),
    Family(
        function="gated_rms_norm",
        build=gated_rms_norm,
        axes=("",),
        edges=(
            edge("silu", "any", "b2t5h3d8", "R1", "R2", shape=(2, 5, 3, 8), eps=1e-6, activation="silu"),
            edge("sigmoid", "any", "b2t5h3d8", "R2", shape=(2, 5, 3, 8), eps=1e-5, activation="sigmoid"),
            edge("silu_gate_first", "any", "b2t5d24", "R3", shape=SMALL, eps=1e-5, activation="silu", gate_first=True),
            edge("sigmoid_gate_first", "any", "t7d10", "R3", shape=(7, 10), eps=0.25, activation="sigmoid", gate_first=True),
            edge("tiny", "any", "b2t5h3d8", "R1", shape=(2, 5, 3, 8), eps=1e-5, activation="silu", magnitude=3e-3),
            edge("large_gates", "any", "t7d10", "R2", shape=(7, 10), eps=1e-6, activation="silu", gates=30.0),
            edge(
                "large_sigmoid_gates",
                "decode",
                "b3t1h4d6",
                "R2",
                shape=(3, 1, 4, 6),
                eps=1e-6,
                activation="sigmoid",
                gates=30.0,
            ),
        ),
    ),
    Family(
        function="l2_norm",
        build=l2_norm,
        axes=("",),
        edges=(
            edge("plain", "any", "b2t5d24", "R2", shape=SMALL, eps=1e-6, magnitude=3.0),
            edge("tiny", "any", "b2t3h5k8", "R1", shape=(2, 3, 5, 8), eps=1e-5, magnitude=3e-3),
            edge("large_eps", "any", "t7d10", "R1", shape=(7, 10), eps=0.25, magnitude=0.5),
        ),
    ),
)
