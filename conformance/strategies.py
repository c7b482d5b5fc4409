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

from conformance import attention_draws, recurrence_draws
from conformance.cases import FAMILIES
from conformance.cases.places import PLACES
from conformance.draws import Parameters, both, present, sizes
from conformance.family import LayerCase

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


def _magnitudes(eps: float) -> st.SearchStrategy[float]:
    return st.sampled_from([1.0, max(eps**0.5, 1e-3), 8.0])


@st.composite
def _normed(draw: st.DrawFn, /, **optional: st.SearchStrategy[Any]) -> Parameters:
    eps = draw(EPS)
    shape = (*draw(SHAPES), draw(st.integers(2, 40)))
    return {"shape": shape, "eps": eps, "magnitude": draw(_magnitudes(eps)), **draw(present(**optional))}


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
    optional = present(truncate=st.just(False), beta_fast=st.sampled_from([16.0, 64.0]), beta_slow=st.sampled_from([0.5, 2.0]))
    return {**required, **draw(optional)}


@st.composite
def _grok_yarn(draw: st.DrawFn) -> Parameters:
    required = draw(_frequencies(factor=FACTORS, original_max_position_embeddings=LENGTHS))
    optional = present(
        beta_fast=st.sampled_from([8.0, 64.0]),
        beta_slow=st.sampled_from([0.5, 2.0]),
        extrapolation_factor=st.sampled_from([0.0, 0.75]),
        blend=st.just("log"),
    )
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
        **draw(present(interleaved=st.just(True), farthest=st.sampled_from([0, 1, 5000]))),
    }


def _pointwise(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    bounds = st.sampled_from([(-4.0, 4.0), (-1.0, 0.0), (-60.0, 60.0)])
    shapes = st.builds(lambda shape, pair: {"shape": shape, "low": pair[0], "high": pair[1]}, SHAPES, bounds)
    return both(shapes, present(**optional))


@st.composite
def _routed(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> Parameters:
    experts = draw(st.integers(1, 9))
    shape = {"front": draw(FRONTS), "experts": experts, "top_k": draw(st.integers(1, min(experts, 4)))}
    return {**shape, **draw(st.fixed_dictionaries(options)), **draw(present(ties=st.just(True)))}


def _hiding(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    """Routers of which some experts are hidden."""
    return st.one_of(_routed(**options), both(_routed(**options), sizes(shown=(1, 3))))


@st.composite
def _sigmoid_routed(draw: st.DrawFn) -> Parameters:
    groups, size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    top_groups = draw(st.integers(1, groups))
    shape: Parameters = {"front": draw(FRONTS), "experts": groups * size}
    shape["top_k"] = draw(st.integers(1, min(size * top_groups, 4)))
    grouping = {"groups": groups, "top_groups": top_groups} if groups > 1 else {}
    options = present(
        bias=st.sampled_from([None, 0.3, 2.0]),
        renormalise=st.just(False),
        scaling_factor=st.sampled_from([0.5, 2.5]),
        eps=st.just(0.5),
    )
    return {**shape, **grouping, **draw(options)}


@st.composite
def _experts(draw: st.DrawFn) -> Parameters:
    experts = draw(st.integers(1, 5))
    shape = {"front": draw(FRONTS), "width": draw(st.integers(1, 8)), "inner": draw(st.integers(1, 8)), "experts": experts}
    shape["top_k"] = draw(st.integers(1, experts))
    clamped = {"alpha": st.sampled_from([1.0, 1.702]), "limit": st.sampled_from([0.75, 7.0])}
    activation: st.SearchStrategy[Parameters] = st.one_of(
        st.fixed_dictionaries({"activation": st.sampled_from(["silu", "gelu", "gelu_tanh"])}),
        st.fixed_dictionaries({"activation": st.just("clamped_swiglu"), **clamped}),
    )
    biases = st.sampled_from([("down_bias",), ("gate_bias", "up_bias"), ("gate_bias", "up_bias", "down_bias")])
    return {**shape, **draw(activation), **draw(present(biases=biases, scale_input=st.just(True), choice=st.just("same")))}


def _losses() -> st.SearchStrategy[Parameters]:
    return present(
        heat=st.sampled_from([0.5, 4.0]),
        offset=st.sampled_from([-200.0, 1000.0]),
        counted=st.sampled_from(["some", "none"]),
        padding=st.just(True),
    )


FRONTS = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
TANH = st.just("tanh")
_PARAMETERS: dict[str, Callable[[], st.SearchStrategy[Parameters]]] = {
    "rms_norm": _rms_norm,
    "layer_norm": lambda: _normed(bias=st.just(False), mean=st.sampled_from([0.01, 1.0])),
    "l2_norm": _normed,
    "gated_rms_norm": lambda: both(
        _normed(gates=st.sampled_from([0.1, 30.0]), gate_first=st.just(True)),
        st.fixed_dictionaries({"activation": st.sampled_from(["silu", "sigmoid"])}),
    ),
    "rope_frequencies": _frequencies,
    "linear_rope_frequencies": lambda: _frequencies(factor=FACTORS),
    "llama3_rope_frequencies": _llama3,
    "yarn_rope_frequencies": _yarn,
    "grok_yarn_rope_frequencies": _grok_yarn,
    "theta_scaled_rope_frequencies": lambda: _frequencies(factor=FACTORS, original_max_position_embeddings=LENGTHS),
    "rope_cos_sin": lambda: both(
        sizes(batch=(1, 3), length=(1, 7), pairs=(1, 20)),
        present(farthest=st.sampled_from([0, 5000, 100000]), attention_factor=st.sampled_from([0.5, 1.375])),
    ),
    "rotary_embedding": _rotated,
    "position_embedding": lambda: sizes(batch=(1, 3), length=(2, 7), table=(1, 9), width=(1, 9), padding=(0, 1)),
    "log_length_temperature": lambda: both(
        sizes(batch=(1, 3), length=(1, 7)),
        st.fixed_dictionaries({"farthest": st.sampled_from([30, 100_000]), "length_of_one": st.sampled_from([2, 4, 1024])}),
    ),
    "log_floor_temperature": lambda: both(
        both(sizes(batch=(1, 3), length=(1, 7)), present(offset=st.sampled_from([0, 1]))),
        st.fixed_dictionaries({"farthest": st.just(300), "scale": st.sampled_from([0.1, 1.0]), "floor": st.integers(1, 40)}),
    ),
    "ring_order": lambda: both(
        sizes(batch=(1, 3), length=(1, 12), window=(1, 6)), st.fixed_dictionaries({"order": st.sampled_from(PLACES)})
    ),
    "ring_append": attention_draws.ring,
    "token_order": lambda: both(
        sizes(batch=(1, 4), length=(1, 12)),
        st.fixed_dictionaries({"padding": st.sampled_from(["left", "right", "anywhere"])}),
    ),
    "padding_mask": attention_draws.masked,
    "causal_mask": attention_draws.masked,
    "sliding_window_mask": lambda: attention_draws.masked(window=st.integers(1, 15)),
    "chunked_mask": lambda: attention_draws.masked(chunk=st.integers(1, 15)),
    "attention_mask": attention_draws.attention_mask,
    "attention": attention_draws.attention,
    "expand_latent": lambda: both(sizes(batch=(1, 3), keys=(1, 8)), attention_draws.latent_widths()),
    "latent_attention": attention_draws.latent_attention,
    "index_scores": attention_draws.index_scores,
    "key_selection": attention_draws.key_selection,
    "causal_conv1d": recurrence_draws.causal_conv1d,
    "softplus_decay": recurrence_draws.softplus_decay,
    "linear_attention": recurrence_draws.linear_attention,
    "gated_linear_attention": recurrence_draws.gated_linear_attention,
    "delta_rule": recurrence_draws.delta_rule,
    "gated_delta_rule": recurrence_draws.gated_delta_rule,
    "ssd": recurrence_draws.ssd,
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
    "clamped_swiglu": lambda: st.fixed_dictionaries(
        {"shape": SHAPES, "alpha": st.sampled_from([0.5, 1.0, 1.702]), "limit": st.sampled_from([0.5, 1.5, 7.0])}
    ),
    "sigmoid": _pointwise,
    "sigmoid_gate": lambda: st.fixed_dictionaries({"shape": SHAPES, "wide": st.booleans()}),
    "top_k_softmax_router": _hiding,
    "softmax_top_k_router": lambda: _hiding(renormalise=st.booleans()),
    "softcapped_softmax_router": lambda: _routed(softcap=st.sampled_from([2.0, 30.0])),
    "sigmoid_router": _sigmoid_routed,
    "top_k_sigmoid_router": _hiding,
    "routed_experts": _experts,
    "mxfp4_decode": lambda: st.fixed_dictionaries(
        {
            "front": st.lists(st.integers(1, 3), max_size=2).map(tuple),
            "blocks": st.integers(1, 4),
            "reach": st.sampled_from(["middle", "lowest", "highest", "whole", "nan"]),
        }
    ),
    "fp8_block_decode": lambda: both(
        sizes(rows=(1, 9), columns=(1, 11), block_rows=(1, 4), block_columns=(1, 5)),
        st.fixed_dictionaries(
            {
                "front": st.lists(st.integers(1, 3), max_size=2).map(tuple),
                "format": st.sampled_from(["e4m3", "e5m2"]),
                "scale": st.sampled_from(["float32", "bfloat16", "ue8m0"]),
            },
            optional={"codes": st.just("all"), "reach": st.sampled_from(["lowest", "highest", "whole"])},
        ),
    ),
    "int4_group_decode": lambda: both(
        sizes(groups=(1, 4)),
        st.fixed_dictionaries(
            {
                "front": st.lists(st.integers(1, 3), max_size=2).map(tuple),
                "scale": st.sampled_from(["float32", "bfloat16", "float16"]),
            },
            optional={"group": st.sampled_from([8, 16, 64])},
        ),
    ),
    "embedding": lambda: both(
        sizes(batch=(1, 3), length=(1, 7), vocabulary=(1, 30), width=(1, 12)), present(scale=st.sampled_from([3.5, 12**0.5]))
    ),
    "lm_head": lambda: both(
        sizes(batch=(1, 3), length=(1, 7), vocabulary=(1, 30), width=(1, 12)),
        present(scale=st.sampled_from([0.0625, 2.5]), softcap=st.sampled_from([5.0, 30.0]), heat=st.sampled_from([0.5, 20.0])),
    ),
    "multi_token_input": lambda: both(
        sizes(batch=(1, 3), length=(1, 7), width=(1, 12)), present(outputs=st.integers(1, 9), heat=st.just(0.25))
    ),
    "cross_entropy": lambda: both(sizes(batch=(1, 3), length=(1, 7), vocabulary=(2, 30)), _losses()),
    "multi_token_loss": lambda: both(
        sizes(depths=(1, 4), batch=(1, 3), length=(1, 7), vocabulary=(2, 30)),
        both(_losses(), present(weight=st.sampled_from([0.125, 1.0]))),
    ),
    "token_distribution": lambda: both(
        st.fixed_dictionaries({"front": FRONTS, "vocabulary": st.integers(1, 12)}),
        present(
            temperature=st.sampled_from([0.0, 0.5, 1.75]),
            top_k=st.integers(1, 6),
            top_p=st.sampled_from([0.25, 0.75, 1.0]),
            min_p=st.sampled_from([0.0, 0.125]),
            shown=st.integers(1, 5),
        ),
    ),
    "speculative_accept": lambda: both(
        sizes(batch=(1, 5), drafted=(0, 4), vocabulary=(2, 9)),
        st.fixed_dictionaries({"kind": st.sampled_from(["soft", "greedy_draft", "greedy", "excluded_by_target"])}),
    ),
}
