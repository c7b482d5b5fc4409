"""Strategies for linear attention and what stands in front of it: see `conformance.strategies`."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from conformance.cases.places import PADDINGS
from conformance.draws import Parameters, both, present

# Most of them short; the others are of more than one chunk of any size.
LENGTHS = st.one_of(st.integers(1, 9), st.sampled_from([17, 33, 65]))
STATES = st.sampled_from([1.0, 30.0])
CHANNEL = st.booleans().map(lambda channel: "channel" if channel else "head")


@st.composite
def _sizes(draw: st.DrawFn) -> Parameters:
    """B, T, G, H, K, J."""
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    widths = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return {"sizes": (draw(st.integers(1, 3)), draw(LENGTHS), groups, heads, *widths)}


def _attended(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    carried = present(state=STATES, padding=st.sampled_from(PADDINGS), keys=st.just("few"))
    return both(both(_sizes(), carried), st.fixed_dictionaries(more))


def _decayed(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    strengths = present(strength=st.sampled_from([0.0, 0.01, 30.0]), sudden=st.sampled_from([0.1, 0.5]))
    return both(_attended(decay=CHANNEL, **more), strengths)


def linear_attention() -> st.SearchStrategy[Parameters]:
    return _attended()


def gated_linear_attention() -> st.SearchStrategy[Parameters]:
    return _decayed()


def delta_rule() -> st.SearchStrategy[Parameters]:
    return both(_attended(corrected=st.just(True)), present(rate=st.sampled_from([0.0, 1.0])))


def gated_delta_rule() -> st.SearchStrategy[Parameters]:
    return both(_decayed(corrected=st.just(True)), present(rate=st.sampled_from([0.0, 1.0])))


def ssd() -> st.SearchStrategy[Parameters]:
    options = present(skip=st.just(False), rate=st.sampled_from([0.05, 30.0]), state=STATES, padding=st.sampled_from(PADDINGS))
    return both(_sizes(), options)


def causal_conv1d() -> st.SearchStrategy[Parameters]:
    sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
    options = present(bias=st.just(True), state=st.just(True), padding=st.sampled_from(PADDINGS))
    return both(st.fixed_dictionaries({"sizes": sizes}), options)


def softplus_decay() -> st.SearchStrategy[Parameters]:
    sizes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5), st.integers(1, 6))
    options = present(
        channel=st.just(True),
        magnitude=st.sampled_from([0.1, 60.0]),
        bias=st.sampled_from([-30.0, 30.0]),
        a_log=st.sampled_from([-4.0, 2.75]),
    )
    return both(st.fixed_dictionaries({"sizes": sizes}), options)
