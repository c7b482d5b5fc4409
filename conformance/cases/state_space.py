"""The selective state space: steps of any size, a skip or none, states from before, padding anywhere, groups of heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.cases.linear_attention import LONG, LOUD, PAST, ROWS, SMALL, STEP, THREEFOLD
from conformance.cases.places import new_places
from conformance.family import Family, Inputs, Values, edge


def ssd(
    values: Values,
    *,
    sizes: tuple[int, int, int, int, int, int],
    skip: bool = True,
    rate: float = 1.0,
    state: float = 0.0,
    padding: str | None = None,
) -> Inputs:
    """sizes: B, T, G, H, K, J. rate: the size of a. state: that of the one from before, 0 for none. padding: where."""
    B, T, G, H, K, J = sizes
    arguments = {
        "x": values.standard_normal((B, T, H, J)),
        "dt": np.logaddexp(0, values.standard_normal((B, T, H))),
        "a": -rate * np.exp(values.standard_normal(H)),
        "b": values.standard_normal((B, T, G, K)),
        "c": values.standard_normal((B, T, G, K)),
    }
    if skip:
        arguments["d"] = values.standard_normal(H)
    options: dict[str, Any] = {}
    if state:
        options["state"] = state * values.standard_normal((B, H, K, J))
    if padding is not None:
        options["order"] = new_places(values, B, T, padding, past=PAST if state else 0)
        arguments["x"][options["order"] < 0] *= LOUD
    return Inputs(arguments, options)


FAMILIES = (
    Family(
        function="ssd",
        build=ssd,
        axes=("BTHJ", "BHKJ"),
        edges=(
            edge("plain", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL),
            edge("no_skip", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL, skip=False),
            edge("state", "pieces", "b2t9g2h4k6j5", "R3", sizes=SMALL, state=1.0),
            edge("state", "decode", "b2t1g2h4k5j3", "R3", sizes=STEP, state=1.0),
            edge("threefold", "prefill", "b2t5g2h6k4j7", "R3", sizes=THREEFOLD),
            edge("left", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, padding="left"),
            edge("row_state", "padded", "b3t7g2h4k6j5", "R3", sizes=ROWS, padding="row", state=1.0, skip=False),
            edge("steep", "prefill", "b2t9g2h4k6j5", "R1", sizes=SMALL, rate=30.0),
            edge("long", "prefill", "b1t65g1h2k4j3", "R1", "R3", sizes=LONG, rate=0.1),
        ),
    ),
)
