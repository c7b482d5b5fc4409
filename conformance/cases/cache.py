"""The ring cache: rings that have wrapped, pieces longer than the window, padding on any side. Judged exactly."""

from __future__ import annotations

from conformance.cases.places import places
from conformance.family import INTEGERS, Family, Inputs, Values, edge
from refimpl import layers


def ring_order(values: Values, *, batch: int, length: int, window: int, order: str = "plain") -> Inputs:
    """Places of `length` tokens, padded as `places` says."""
    _, tokens = places(values, batch, min(length, 4), length, order)
    return Inputs({"order": tokens}, {"window": window})


def ring_append(
    values: Values,
    *,
    batch: int,
    past: int,
    new: int,
    window: int,
    heads: int,
    width: int,
    order: str = "plain",
) -> Inputs:
    """`new` tokens after `past` ones, of which the ring keeps the last; no ring where there are none."""
    _, tokens = places(values, batch, new, past + new, order)
    earlier = values.standard_normal((batch, past, heads, width))
    arguments = {"new": values.standard_normal((batch, new, heads, width)), "order": tokens}
    if past:
        arguments["ring"] = layers.ring_append(earlier, tokens[:, :past], window=window)
    return Inputs(arguments, {"window": window})


SIZES = {"batch": 3, "heads": 2, "width": 5}
FAMILIES = (
    Family(
        function="ring_order",
        build=ring_order,
        axes=("BS",),
        dtypes=INTEGERS,
        edges=(
            edge("short", "any", "s3w5", "R1", batch=2, length=3, window=5),
            edge("full", "any", "s5w5", "R1", batch=2, length=5, window=5),
            edge("wrapped", "any", "s13w5", "R2", batch=2, length=13, window=5),
            edge("window_one", "any", "s4w1", "R1", batch=2, length=4, window=1),
            *(
                edge(f"{side}_padding", "padded", "s11w4", "R1", batch=4, length=11, window=4, order=side)
                for side in ("left", "right", "middle", "empty")
            ),
        ),
    ),
    Family(
        function="ring_append",
        build=ring_append,
        axes=("BSGK",),
        exact=True,
        edges=(
            edge("first", "prefill", "t3w5", "R3", past=0, new=3, window=5, **SIZES),
            edge("first_long", "prefill", "t13w5", "R1", past=0, new=13, window=5, **SIZES),
            edge("growing", "pieces", "t2s4w7", "R1", past=2, new=2, window=7, **SIZES),
            edge("filling", "pieces", "t3s6w5", "R1", past=3, new=3, window=5, **SIZES),
            edge("wrapped", "pieces", "t3s14w5", "R4", past=11, new=3, window=5, **SIZES),
            edge("longer_than_window", "pieces", "t8s15w5", "R4", past=7, new=8, window=5, **SIZES),
            edge("wrapped", "decode", "t1s14w5", "R1", past=13, new=1, window=5, **SIZES),
            edge("window_one", "decode", "t1s4w1", "R1", past=3, new=1, window=1, **SIZES),
            *(
                edge(f"{side}_padding", "padded", "t4s15w5", "R2", past=11, new=4, window=5, order=side, **SIZES)
                for side in ("left", "right", "middle")
            ),
            edge("left_padding", "prefill", "t7w5", "R2", "R3", past=0, new=7, window=5, order="left", **SIZES),
        ),
    ),
)
