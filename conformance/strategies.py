"""Hypothesis strategies: shapes, options and semantics of every layer. Values come from a seeded generator, so that shrinking
is fast and a drawn case is made again from its id alone.

    from conformance.strategies import layer_cases

    @given(layer_cases("attention", "float32"))
    def test_mine(case):
        assert case.judge_outputs((my_attention(*case.inputs.arguments.values(), **case.inputs.options),)).verdict == "pass"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from conformance.cases import FAMILIES
from conformance.cases.places import PLACES
from conformance.family import LayerCase

Parameters = dict[str, Any]
SEEDS = st.integers(0, 2**16)
SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
EPS = st.sampled_from([1e-6, 1e-5, 1e-3, 0.25])


def layer_cases(function: str, dtype: str) -> st.SearchStrategy[LayerCase]:
    """Cases of one function at one dtype. ValueError for a function without the dtype."""
    family = FAMILIES[function]
    if dtype not in family.dtypes:
        raise ValueError(f"{function} has no cases at {dtype!r}, only at {', '.join(family.dtypes)}")
    return st.builds(lambda parameters, seed: family.drawn(parameters, seed, dtype), parameters_of(function), SEEDS)


def parameters_of(function: str) -> st.SearchStrategy[Parameters]:
    """The parameters of the cases of one function."""
    return _PARAMETERS[function]()


def _present(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    """Any subset of options."""
    return st.fixed_dictionaries({}, optional=optional)


def _magnitudes(eps: float) -> st.SearchStrategy[float]:
    return st.sampled_from([1.0, max(eps**0.5, 1e-3), 8.0])


@st.composite
def _normed(draw: st.DrawFn, /, **optional: st.SearchStrategy[Any]) -> Parameters:
    eps = draw(EPS)
    shape = (*draw(SHAPES), draw(st.integers(2, 40)))
    return {"shape": shape, "eps": eps, "magnitude": draw(_magnitudes(eps)), **draw(_present(**optional))}


def _rms_norm() -> st.SearchStrategy[Parameters]:
    plain = _normed(weight=st.sampled_from([None, 0.25, 4.0]))
    centred = _normed(zero_centred=st.just(True), weight=st.sampled_from([0.25, 4.0]))
    return st.one_of(plain, centred)


def _frequencies(**required: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    theta = st.sampled_from([1e4, 1.5e5, 5e5, 1e6, 5e6])
    return st.fixed_dictionaries({"rotary_dim": st.integers(1, 64).map(lambda half: 2 * half), "theta": theta, **required})


FACTORS = st.sampled_from([2.0, 4.0, 8.0, 32.0])
LENGTHS = st.sampled_from([64, 512, 4096, 8192, 32768])


def _llama3() -> st.SearchStrategy[Parameters]:
    return _frequencies(
        factor=FACTORS,
        low_freq_factor=st.sampled_from([1.0, 2.0]),
        high_freq_factor=st.sampled_from([2.0, 4.0]),
        original_max_position_embeddings=LENGTHS,
    )


@st.composite
def _yarn(draw: st.DrawFn) -> Parameters:
    required = draw(_frequencies(factor=FACTORS, original_max_position_embeddings=LENGTHS))
    optional = _present(truncate=st.just(False), beta_fast=st.sampled_from([16.0, 64.0]), beta_slow=st.sampled_from([0.5, 2.0]))
    return {**required, **draw(optional)}


@st.composite
def _rotated(draw: st.DrawFn) -> Parameters:
    half, rest = draw(st.integers(1, 8)), draw(st.integers(0, 7))
    return {
        "batch": draw(st.integers(1, 3)),
        "length": draw(st.integers(1, 7)),
        "heads": draw(st.integers(1, 5)),
        "width": 2 * half + rest,
        "rotated": 2 * half,
        **draw(_present(interleaved=st.just(True), farthest=st.sampled_from([0, 1, 5000]))),
    }


def _sizes(**bounds: tuple[int, int]) -> st.SearchStrategy[Parameters]:
    return st.fixed_dictionaries({name: st.integers(*pair) for name, pair in bounds.items()})


def _and(first: st.SearchStrategy[Parameters], second: st.SearchStrategy[Parameters]) -> st.SearchStrategy[Parameters]:
    return st.builds(lambda a, b: {**a, **b}, first, second)


@st.composite
def _masked(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> Parameters:
    queries = draw(st.integers(1, 6))
    return {
        "queries": queries,
        "keys": queries + draw(st.integers(0, 8)),
        "batch": draw(st.integers(1, 3)),
        "order": draw(st.sampled_from(PLACES)),
        **{name: draw(strategy) for name, strategy in options.items()},
    }


def _attention_mask() -> st.SearchStrategy[Parameters]:
    spans = {"window": st.integers(1, 15), "chunk": st.integers(1, 15)}
    return st.one_of(
        _masked(), _masked(causal=st.just(False)), *(_masked(**{name: span}) for name, span in spans.items()), _masked(**spans)
    )


@st.composite
def _attention(draw: st.DrawFn) -> Parameters:
    queries, kv_heads = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    sizes = {
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
    scores = _present(
        softcap=st.sampled_from([2.0, 5.0, 50.0]),
        sinks=st.just(True),
        bias=st.sampled_from(["full", "keys"]),
        order=st.sampled_from(PLACES),
        scale=st.sampled_from([0.1, 0.5]),
    )
    return {**sizes, **draw(masking), **draw(scores)}


def _pointwise(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    bounds = st.sampled_from([(-4.0, 4.0), (-1.0, 0.0), (-60.0, 60.0)])
    shapes = st.builds(lambda shape, pair: {"shape": shape, "low": pair[0], "high": pair[1]}, SHAPES, bounds)
    return _and(shapes, _present(**optional))


TANH = st.just("tanh")
_PARAMETERS: dict[str, Callable[[], st.SearchStrategy[Parameters]]] = {
    "rms_norm": _rms_norm,
    "layer_norm": lambda: _normed(bias=st.just(False), mean=st.sampled_from([0.01, 1.0])),
    "l2_norm": _normed,
    "rope_frequencies": _frequencies,
    "linear_rope_frequencies": lambda: _frequencies(factor=FACTORS),
    "llama3_rope_frequencies": _llama3,
    "yarn_rope_frequencies": _yarn,
    "rope_cos_sin": lambda: _and(
        _sizes(batch=(1, 3), length=(1, 7), pairs=(1, 20)),
        _present(farthest=st.sampled_from([0, 5000, 100000]), attention_factor=st.sampled_from([0.5, 1.375])),
    ),
    "rotary_embedding": _rotated,
    "position_embedding": lambda: _sizes(batch=(1, 3), length=(2, 7), table=(1, 9), width=(1, 9), padding=(0, 1)),
    "token_order": lambda: _and(
        _sizes(batch=(1, 4), length=(1, 12)),
        st.fixed_dictionaries({"padding": st.sampled_from(["left", "right", "anywhere"])}),
    ),
    "padding_mask": _masked,
    "causal_mask": _masked,
    "sliding_window_mask": lambda: _masked(window=st.integers(1, 15)),
    "chunked_mask": lambda: _masked(chunk=st.integers(1, 15)),
    "attention_mask": _attention_mask,
    "attention": _attention,
    "soft_cap": lambda: st.fixed_dictionaries(
        {"shape": SHAPES, "cap": st.sampled_from([2.0, 30.0, 50.0]), "reach": st.sampled_from([0.1, 2.0, 40.0])}
    ),
    "linear": lambda: st.fixed_dictionaries(
        {"front": SHAPES, "inputs": st.integers(1, 20), "outputs": st.integers(1, 20), "bias": st.booleans()}
    ),
    "silu": _pointwise,
    "gelu": lambda: _pointwise(approximate=TANH),
    "swiglu": _pointwise,
    "geglu": lambda: _pointwise(approximate=TANH),
    "embedding": lambda: _and(
        _sizes(batch=(1, 3), length=(1, 7), vocabulary=(1, 30), width=(1, 12)), _present(scale=st.sampled_from([3.5, 12**0.5]))
    ),
    "lm_head": lambda: _and(
        _sizes(batch=(1, 3), length=(1, 7), vocabulary=(1, 30), width=(1, 12)),
        _present(scale=st.sampled_from([0.0625, 2.5]), softcap=st.sampled_from([5.0, 30.0]), heat=st.sampled_from([0.5, 20.0])),
    ),
}
