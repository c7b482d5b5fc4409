"""Strategies for attention in both kinds, its masks and its ring cache: see `conformance.strategies`."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from conformance.cases.places import PLACES
from conformance.draws import Parameters, both, present, sizes


@st.composite
def masked(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> Parameters:
    queries = draw(st.integers(1, 6))
    return {
        "queries": queries,
        "keys": queries + draw(st.integers(0, 8)),
        "batch": draw(st.integers(1, 3)),
        "order": draw(st.sampled_from(PLACES)),
        **{name: draw(strategy) for name, strategy in options.items()},
    }


def attention_mask() -> st.SearchStrategy[Parameters]:
    spans = {"window": st.integers(1, 15), "chunk": st.integers(1, 15)}
    return st.one_of(
        masked(), masked(causal=st.just(False)), *(masked(**{name: span}) for name, span in spans.items()), masked(**spans)
    )


@st.composite
def attention(draw: st.DrawFn) -> Parameters:
    queries, kv_heads = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    shape = {
        "batch": draw(st.integers(1, 3)),
        "queries": queries,
        "keys": queries + draw(st.integers(0, 12)),
        "heads": kv_heads * draw(st.integers(1, 4)),
        "kv_heads": kv_heads,
        "key_width": draw(st.integers(2, 16)),
        "value_width": draw(st.integers(1, 16)),
    }
    masking: st.SearchStrategy[Parameters] = st.one_of(
        st.just({}),
        st.just({"causal": False}),
        st.fixed_dictionaries({"window": st.integers(1, 12)}),
        st.fixed_dictionaries({"chunk": st.integers(1, 12)}),
    )
    scores = present(
        softcap=st.sampled_from([2.0, 5.0, 50.0]),
        temperature=st.just(True),
        sinks=st.just(True),
        bias=st.sampled_from(["full", "keys", "selected"]),
        order=st.sampled_from(PLACES),
        scale=st.sampled_from([0.1, 0.5]),
    )
    return {**shape, **draw(masking), **draw(scores)}


@st.composite
def latent_attention(draw: st.DrawFn) -> Parameters:
    queries = draw(st.integers(1, 6))
    scores = present(
        temperature=st.just(True),
        bias=st.sampled_from(["full", "keys", "selected"]),
        order=st.sampled_from(PLACES),
        scale=st.sampled_from([0.1, 0.5]),
        causal=st.just(False),
    )
    return {
        "batch": draw(st.integers(1, 3)),
        "queries": queries,
        "keys": queries + draw(st.integers(0, 12)),
        **draw(latent_widths()),
        **draw(scores),
    }


def index_scores() -> st.SearchStrategy[Parameters]:
    widths = sizes(batch=(1, 3), queries=(1, 6), keys=(1, 12), heads=(1, 9), width=(1, 12))
    return both(widths, present(scale=st.sampled_from([0.1, 0.5]), sign=st.sampled_from([-1.0, 1.0])))


def key_selection() -> st.SearchStrategy[Parameters]:
    options = present(causal=st.just(False), mean=st.sampled_from([-9.0, 9.0]), ties=st.just(True))
    return both(masked(top_k=st.integers(1, 15)), options)


def latent_widths() -> st.SearchStrategy[Parameters]:
    return sizes(heads=(1, 5), rank=(1, 16), nope=(1, 12), rope=(1, 8), value_width=(1, 12))


@st.composite
def ring(draw: st.DrawFn) -> Parameters:
    order = draw(st.sampled_from([name for name in PLACES if name not in ("shuffled", "empty")]))
    return {**draw(sizes(batch=(1, 3), past=(0, 12), new=(1, 9), window=(1, 6), heads=(1, 2), width=(1, 3))), "order": order}
