"""Linear attention: keys of length one, decays of any strength, states from before, padding between, value heads in groups.

Lengths are no multiples of a chunk, and the longest are of three: what a chunk hands to the next shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.cases.places import new_places
from conformance.family import Family, Inputs, Values, edge
from refimpl.numerics import Array

LOUD, PAST = 30.0, 5
# The logarithm of a decay after which nothing is left.
SUDDEN = -30.0


def attended(
    values: Values,
    *,
    sizes: tuple[int, int, int, int, int, int],
    decay: str | None = None,
    strength: float = 1.0,
    sudden: float = 0.0,
    corrected: bool = False,
    rate: float | None = None,
    keys: str = "any",
    length: float = 1.0,
    state: float = 0.0,
    padding: str | None = None,
) -> Inputs:
    """sizes: B, T, G, H, K, J. decay: "head", "channel" or none. strength: its size; sudden: the share of steep ones.

    corrected: with beta, all of them `rate` if that is given. keys: "any", "few" (which repeat) or "orthonormal".
    length: of queries and keys. state: the size of the one from before, 0 for none. padding: where (`PADDINGS`).
    """
    B, T, G, H, K, J = sizes
    arguments = {"q": length * _unit(values, (B, T, G, K)), "k": length * _keys(values, (B, T, G, K), keys)}
    arguments["v"] = values.standard_normal((B, T, H, J))
    if decay is not None:
        shape = (B, T, H, K) if decay == "channel" else (B, T, H)
        mild = -strength * np.exp(values.standard_normal(shape))
        # The last tokens are mild, so that the state after them is not all of their making.
        steep = (values.random(shape) < sudden) & (np.arange(T) < T - 3).reshape(-1, *(1,) * (len(shape) - 2))
        arguments["g"] = np.where(steep, SUDDEN, mild)
    if corrected:
        drawn = 1 / (1 + np.exp(-2 * values.standard_normal((B, T, H))))
        arguments["beta"] = drawn if rate is None else np.full((B, T, H), rate)
    options: dict[str, Any] = {"scale": K**-0.5}
    if state:
        options["state"] = state * values.standard_normal((B, H, K, J))
    if padding is not None:
        options["order"] = new_places(values, B, T, padding, past=PAST if state else 0)
        arguments["v"][options["order"] < 0] *= LOUD
    return Inputs(arguments, options)


def _keys(values: Values, shape: tuple[int, ...], kind: str) -> Array:
    B, T, G, K = shape
    if kind == "orthonormal":
        return np.linalg.qr(values.standard_normal((B, G, K, T)))[0].transpose(0, 3, 1, 2)
    if kind == "few":
        return np.take_along_axis(_unit(values, (B, 2, G, K)), values.integers(0, 2, (B, T, G, 1)), axis=1)
    return _unit(values, shape)


def _unit(values: Values, shape: tuple[int, ...]) -> Array:
    vectors = values.standard_normal(shape)
    unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def softplus_decay(
    values: Values,
    *,
    sizes: tuple[int, int, int, int],
    channel: bool = False,
    magnitude: float = 2.0,
    bias: float = 0.0,
    a_log: float | None = None,
) -> Inputs:
    """sizes: B, T, H, K. magnitude: of a. bias: the mean of dt_bias. a_log: that of every head."""
    B, T, H, K = sizes
    shape, biases = ((B, T, H, K), H * K) if channel else ((B, T, H), H)
    rates = values.standard_normal(H)
    arguments = {
        "a": magnitude * values.standard_normal(shape),
        "a_log": rates if a_log is None else np.full(H, a_log),
        "dt_bias": bias + values.standard_normal(biases),
    }
    return Inputs(arguments, {})


def _family(function: str, *edges: Any) -> Family:
    return Family(function=function, build=attended, axes=("BTHJ", "BHKJ"), edges=edges)


SMALL, ROWS, STEP = (2, 9, 2, 4, 6, 5), (3, 7, 2, 4, 6, 5), (2, 1, 2, 4, 5, 3)
THREEFOLD, SINGLE, EQUAL = (2, 5, 2, 6, 4, 7), (2, 5, 1, 4, 6, 3), (2, 5, 3, 3, 6, 4)
LONG, LONGEST = (1, 65, 1, 2, 4, 3), (1, 130, 1, 2, 4, 3)
FEW = {"keys": "few", "corrected": True}
FAMILIES = (
    Family(
        function="softplus_decay",
        build=softplus_decay,
        axes=("",),
        edges=(
            edge("head", "any", "b2t5h3", "R3", sizes=(2, 5, 3, 4)),
            edge("channel", "any", "b2t5h3k4", "R3", sizes=(2, 5, 3, 4), channel=True),
            edge("fast", "any", "b2t5h3", "R1", sizes=(2, 5, 3, 4), a_log=2.7725887),
            edge("far", "any", "b2t5h3", "R2", sizes=(2, 5, 3, 4), magnitude=60.0),
            edge("closed", "any", "b2t5h3k4", "R1", "R2", sizes=(2, 5, 3, 4), channel=True, bias=-30.0),
            edge("channel", "decode", "b3t1h4k5", "R3", sizes=(3, 1, 4, 5), channel=True, bias=-4.0),
        ),
    ),
    _family(
        "linear_attention",
        edge("plain", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL),
        edge("state", "pieces", "b2t9g2h4k6j5", "R4", sizes=SMALL, state=1.0),
        edge("state", "decode", "b2t1g2h4k5j3", "R1", "R4", sizes=STEP, state=1.0),
        edge("threefold", "prefill", "b2t5g2h6k4j7", "R2", sizes=THREEFOLD),
        edge("one_group", "prefill", "b2t5g1h4k6j3", "R2", sizes=SINGLE),
        edge("left", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, padding="left"),
        edge("row_state", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, padding="row", state=1.0),
        edge("long", "prefill", "b1t65g1h2k4j3", "R4", sizes=LONG),
        edge("longer", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL, length=1.25),
    ),
    _family(
        "gated_linear_attention",
        edge("head", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, decay="head"),
        edge("channel", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, decay="channel"),
        edge("head_state", "decode", "b2t1g2h4k5j3", "R5", sizes=STEP, decay="head", state=1.0),
        edge("channel_state", "decode", "b2t1g2h4k5j3", "R5", sizes=STEP, decay="channel", state=1.0),
        edge("channel_state", "pieces", "b2t9g2h4k6j5", "R4", "R5", sizes=SMALL, decay="channel", state=1.0),
        edge("no_decay", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, decay="head", strength=0.0),
        edge("threefold", "prefill", "b2t5g2h6k4j7", "R2", sizes=THREEFOLD, decay="channel"),
        edge("between_state", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, decay="head", padding="between", state=1.0),
        edge("right", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, decay="channel", padding="right"),
        edge("sudden", "prefill", "b1t65g1h2k4j3", "R5", sizes=LONG, decay="head", strength=0.05, sudden=0.3),
        edge("channel_sudden", "prefill", "b1t65g1h2k4j3", "R5", sizes=LONG, decay="channel", strength=0.05, sudden=0.3),
        edge("slow", "prefill", "b1t130g1h2k4j3", "R4", "R5", sizes=LONGEST, decay="head", strength=0.01),
        edge("longer", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL, decay="head", length=1.25),
    ),
    _family(
        "delta_rule",
        edge("plain", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, corrected=True),
        edge("state", "pieces", "b2t9g2h4k6j5", "R4", sizes=SMALL, corrected=True, state=1.0),
        edge("state", "decode", "b2t1g2h4k5j3", "R1", "R4", sizes=STEP, corrected=True, state=1.0),
        edge("large_state", "pieces", "b2t9g2h4k6j5", "R4", sizes=SMALL, corrected=True, state=100.0),
        edge("nothing_written", "pieces", "b2t9g2h4k6j5", "R6", sizes=SMALL, corrected=True, rate=0.0, state=1.0),
        edge(
            "orthonormal",
            "prefill",
            "b2t5g2h6k7j4",
            "R5",
            sizes=(2, 5, 2, 6, 7, 4),
            corrected=True,
            rate=1.0,
            keys="orthonormal",
        ),
        edge("overwritten", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, rate=1.0, **FEW),
        edge("overwritten", "prefill", "b1t65g1h2k4j3", "R5", sizes=LONG, rate=1.0, **FEW),
        edge("threefold", "prefill", "b2t5g2h6k4j7", "R2", sizes=THREEFOLD, corrected=True),
        edge("left_state", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, corrected=True, padding="left", state=1.0),
        edge("between", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, corrected=True, padding="between"),
        edge("long", "prefill", "b1t130g1h2k4j3", "R4", sizes=LONGEST, corrected=True),
        edge("longer", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL, corrected=True, length=1.25),
    ),
    _family(
        "gated_delta_rule",
        edge("head", "prefill", "b2t9g2h4k6j5", "R7", sizes=SMALL, decay="head", corrected=True),
        edge("channel", "prefill", "b2t9g2h4k6j5", "R5", "R7", sizes=SMALL, decay="channel", corrected=True),
        edge("head_state", "pieces", "b2t9g2h4k6j5", "R4", "R7", sizes=SMALL, decay="head", corrected=True, state=1.0),
        edge("channel_state", "pieces", "b2t9g2h4k6j5", "R4", "R7", sizes=SMALL, decay="channel", corrected=True, state=1.0),
        edge("head_state", "decode", "b2t1g2h4k5j3", "R1", "R7", sizes=STEP, decay="head", corrected=True, state=1.0),
        edge("channel_state", "decode", "b2t1g2h4k5j3", "R1", "R7", sizes=STEP, decay="channel", corrected=True, state=1.0),
        edge("large_state", "decode", "b2t1g2h4k5j3", "R7", sizes=STEP, decay="head", corrected=True, state=100.0),
        edge("threefold", "prefill", "b2t5g2h6k4j7", "R2", sizes=THREEFOLD, decay="head", corrected=True),
        edge("one_group", "prefill", "b2t5g1h4k6j3", "R2", sizes=SINGLE, decay="head", corrected=True),
        edge("equal_groups", "prefill", "b2t5g3h3k6j4", "R2", sizes=EQUAL, decay="channel", corrected=True),
        edge("left", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, decay="head", corrected=True, padding="left"),
        edge("right", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, decay="channel", corrected=True, padding="right"),
        edge(
            "between_state",
            "padded",
            "b3t7g2h4k6j5",
            "R3",
            sizes=ROWS,
            decay="head",
            corrected=True,
            padding="between",
            state=1.0,
        ),
        edge(
            "row_state", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, decay="channel", corrected=True, padding="row", state=1.0
        ),
        edge("row_state", "decode", "b2t1g2h4k5j3", "R3", sizes=STEP, decay="head", corrected=True, padding="row", state=1.0),
        edge("no_decay", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, decay="head", strength=0.0, corrected=True),
        edge(
            "nothing_written", "pieces", "b2t9g2h4k6j5", "R6", sizes=SMALL, decay="channel", corrected=True, rate=0.0, state=1.0
        ),
        edge(
            "orthonormal",
            "prefill",
            "b2t5g2h6k7j4",
            "R5",
            sizes=(2, 5, 2, 6, 7, 4),
            decay="head",
            strength=0.0,
            corrected=True,
            rate=1.0,
            keys="orthonormal",
        ),
        edge("steep", "prefill", "b2t9g2h4k6j5", "R5", sizes=SMALL, decay="channel", strength=30.0, corrected=True),
        edge("sudden", "prefill", "b1t65g1h2k4j3", "R7", sizes=LONG, decay="head", strength=0.05, sudden=0.3, corrected=True),
        edge(
            "channel_sudden",
            "prefill",
            "b1t65g1h2k4j3",
            "R7",
            sizes=LONG,
            decay="channel",
            strength=0.05,
            sudden=0.3,
            corrected=True,
        ),
        edge("overwritten", "prefill", "b1t65g1h2k4j3", "R5", sizes=LONG, decay="head", strength=0.01, rate=1.0, **FEW),
        edge("channel_overwritten", "prefill", "b1t130g1h2k4j3", "R5", sizes=LONGEST, decay="channel", strength=0.01, **FEW),
        edge("long", "prefill", "b1t130g1h2k4j3", "R4", "R7", sizes=LONGEST, decay="head", corrected=True),
        edge("longer", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL, decay="head", corrected=True, length=1.25),
    ),
)
