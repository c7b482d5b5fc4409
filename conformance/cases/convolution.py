"""The causal convolution: few taps and many, fewer tokens than taps, states from before, padding anywhere."""

from __future__ import annotations

from typing import Any

from conformance.cases.places import new_places
from conformance.family import Family, Inputs, Values, edge

# What padding holds is so many times larger than what counts.
LOUD = 30.0
PAST = 5


def causal_conv1d(
    values: Values,
    *,
    sizes: tuple[int, int, int, int],
    bias: bool = False,
    state: bool = False,
    padding: str | None = None,
    loud: int | None = None,
) -> Inputs:
    """sizes: B, T, D, W. padding: where (`PADDINGS`). loud: one large token, so many before the end."""
    B, T, D, W = sizes
    x = values.standard_normal((B, T, D))
    options: dict[str, Any] = {}
    if state:
        options["state"] = values.standard_normal((B, D, W - 1))
    if padding is not None:
        options["order"] = new_places(values, B, T, padding, past=PAST if state else 0)
        x[options["order"] < 0] *= LOUD
    if loud is not None:
        x[:, -1 - loud] *= LOUD
    arguments = {"x": x, "weight": values.standard_normal((D, W))}
    if bias:
        arguments["bias"] = values.standard_normal(D)
    return Inputs(arguments, options)


SMALL = (3, 9, 6, 4)
FAMILIES = (
    Family(
        function="causal_conv1d",
        build=causal_conv1d,
        axes=("BTD", "BDZ"),
        edges=(
            edge("plain", "prefill", "b2t9d6w4", "R1", "R2", sizes=(2, 9, 6, 4)),
            edge("bias", "prefill", "b2t9d6w4", "R1", sizes=(2, 9, 6, 4), bias=True),
            edge("two_taps", "prefill", "b2t5d3w2", "R1", "R3", sizes=(2, 5, 3, 2)),
            edge("one_tap", "prefill", "b2t5d3w1", "R1", "R3", sizes=(2, 5, 3, 1), bias=True),
            edge("short", "prefill", "b3t2d5w4", "R2", "R3", sizes=(3, 2, 5, 4)),
            edge("state", "pieces", "b2t9d6w4", "R3", "R5", sizes=(2, 9, 6, 4), state=True),
            edge("short_state", "pieces", "b3t2d5w4", "R3", "R5", sizes=(3, 2, 5, 4), state=True, bias=True),
            edge("state", "decode", "b3t1d5w4", "R3", "R5", sizes=(3, 1, 5, 4), state=True),
            edge("two_taps_state", "decode", "b3t1d5w2", "R3", "R5", sizes=(3, 1, 5, 2), state=True, bias=True),
            edge("before_the_state", "prefill", "b2t9d6w4", "R3", sizes=(2, 9, 6, 4), loud=3),
            edge("left", "padded", "b3t9d6w4", "R2", "R4", sizes=SMALL, padding="left"),
            edge("right", "padded", "b3t9d6w4", "R4", sizes=SMALL, padding="right"),
            edge("between", "padded", "b3t9d6w4", "R4", sizes=SMALL, padding="between", bias=True),
            edge("row", "padded", "b3t9d6w4", "R4", sizes=SMALL, padding="row", bias=True),
            edge("left_state", "padded", "b3t4d6w4", "R4", "R5", sizes=(3, 4, 6, 4), padding="left", state=True),
            edge("right_state", "padded", "b3t4d6w4", "R4", "R5", sizes=(3, 4, 6, 4), padding="right", state=True),
            edge("row_state", "padded", "b3t9d6w4", "R4", "R5", sizes=SMALL, padding="row", state=True),
        ),
    ),
)
