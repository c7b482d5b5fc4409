"""Routers: scores that decide, equal scores, hidden experts; biases that change the choice, groups that a lone expert misleads.

Sets of scores whose choice a few roundings could change are drawn again, so that a choice is right or wrong; of equal scores
any may be chosen (`conformance.choice`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.choice import drawn_until, favouring, stands
from conformance.family import Edge, Family, Inputs, Values, edge
from refimpl import layers
from refimpl.layers.router import top_k_indices
from refimpl.numerics import Array, unit_roundoff

# Logits of which several are equal, and the rest far apart, in sums of two after a sigmoid as well.
LEVELS = (-1.0, 0.0, 2.0)
FLOAT16, FLOAT32 = unit_roundoff("float16"), unit_roundoff("float32")
# The rounding of the format in which a router computes: of float32, or of float64 where that is tested.
COMPUTING = {False: FLOAT32, True: unit_roundoff("float64")}


def router(function: str) -> Callable[..., Inputs]:
    """How inputs of a router without groups are made."""

    def build(
        values: Values,
        *,
        front: tuple[int, ...],
        experts: int,
        top_k: int,
        heat: float = 1.5,
        ties: bool = False,
        shown: int | None = None,
        **options: Any,
    ) -> Inputs:
        """Logits of size `heat`. ties: few different ones. shown: how many experts of a token are not at -inf."""
        settings = {"top_k": top_k, **options}

        def draw(count: int) -> Array:
            rows = values.choice(LEVELS, (count, experts)) if ties else _spread(values, (count, experts), heat)
            hidden = np.argsort(values.random(rows.shape), axis=-1) >= (experts if shown is None else shown)
            return _stored(values, np.where(hidden, -np.inf, rows))

        def keep(rows: Array) -> Array:
            return stands(lambda scores: getattr(layers, function)(scores, **settings)[0], rows, values.roundoff)

        count = int(np.prod(front))
        logits = draw(count) if ties else drawn_until(keep, draw, count)
        return Inputs({"logits": logits.reshape(*front, experts)}, settings)

    return build


def sigmoid_router(
    values: Values,
    *,
    front: tuple[int, ...],
    experts: int,
    top_k: int,
    heat: float = 1.5,
    mean: float = 0.0,
    bias: float | None = 0.7,
    bias_mean: float = 0.0,
    ties: bool = False,
    lone: bool = False,
    fine: bool = False,
    **options: Any,
) -> Inputs:
    """Logits of size `heat` around `mean`, a correction bias of size `bias` (None: absent) around bias_mean.

    lone: the expert with the best score is in none of the chosen groups. fine: both sizes are in units of 64 roundings of
    float16 (of bfloat16 where that is tested), so that a choice stands with a bias in float16 and falls in bfloat16.
    """
    unit = 64 * max(values.roundoff, FLOAT16) if fine else 1.0
    correction = None if bias is None else _stored(values, _spread(values, experts, bias * unit) + bias_mean)
    grouping = {name: options[name] for name in ("groups", "top_groups") if name in options}

    def draw(count: int) -> Array:
        if ties:
            return values.choice(LEVELS, (count, experts))
        return _stored(values, mean + _spread(values, (count, experts), heat * unit))

    def choose(rows: Array) -> Array:
        return layers.sigmoid_router(rows, correction, top_k=top_k, **grouping)[0]

    def keep(rows: Array) -> Array:
        corrected = layers.sigmoid(rows) + (0 if correction is None else correction)
        decided = stands(choose, rows, values.roundoff) & groups_stand(corrected, values.roundoff, lone=lone, **grouping)
        # The correction is exact, and added in the format in which a router computes.
        best = stands(lambda scores: top_k_indices(scores, experts), corrected, COMPUTING[values.roundoff < FLOAT32])
        return decided & best

    count = int(np.prod(front))
    logits = (draw(count) if ties else drawn_until(keep, draw, count)).reshape(*front, experts)
    arguments = {"logits": logits} if correction is None else {"logits": logits, "correction_bias": correction}
    return Inputs(arguments, {"top_k": top_k, **options})


def _stored(values: Values, array: Array) -> Array:
    """`array` as the tested dtype holds it."""
    return array.astype(values.format).astype(np.float64)


def _spread(values: Values, shape: int | tuple[int, ...], size: float) -> Array:
    """Numbers of the given size whose last axis is evenly spaced, up to a fifth of a step, in any order."""
    experts = np.atleast_1d(shape)[-1]
    steps = np.argsort(values.random(shape), axis=-1) + values.uniform(-0.2, 0.2, shape)
    return size * 2 * (2 * (steps + 0.5) / experts - 1)


def groups_stand(corrected: Array, roundoff: float, *, lone: bool, groups: int = 1, top_groups: int = 1) -> Array:
    """Rows [N, E] whose best groups are clearly the best, and (lone) do not hold the best expert."""
    grouped = corrected.reshape(len(corrected), groups, -1)
    sums = np.sort(grouped, axis=-1)[..., -2:].sum(axis=-1)
    order = top_k_indices(sums, groups)
    ranked = np.take_along_axis(sums, order, axis=-1)
    clear = np.ones(len(corrected), bool)
    if top_groups < groups:
        clear = ranked[:, top_groups - 1] - ranked[:, top_groups] > 16 * roundoff * np.maximum(1, np.abs(sums).max(axis=-1))
    if not lone:
        return clear
    home = np.argmax(grouped.max(axis=-1), axis=-1)
    return clear & (order[:, :top_groups] != home[:, None]).all(axis=-1)


TOKENS = {"front": (2, 5), "experts": 11, "top_k": 3}
SIZE = "b2t5e11a3"
GROUPED = {"front": (2, 5), "experts": 12, "top_k": 3, "groups": 4, "top_groups": 2}
GROUPED_SIZE = "b2t5e12a3"


def _shared(ties: tuple[str, ...], **options: Any) -> tuple[Edge, ...]:
    """What every router is asked."""
    return (
        edge("one_token", "decode", "t1e7a2", front=(1,), experts=7, top_k=2, **options),
        edge("one_expert", "any", "b2t5e11a1", front=(2, 5), experts=11, top_k=1, **options),
        edge("all_chosen", "any", "t6e5a5", front=(6,), experts=5, top_k=5, **options),
        edge("ties", "any", "t9e11a4", *ties, front=(9,), experts=11, top_k=4, ties=True, **options),
    )


def _hidden(**options: Any) -> tuple[Edge, ...]:
    """Experts at -inf: more than enough are left, or fewer than are chosen."""
    return (
        edge("hidden_experts", "any", "t6e11a3", front=(6,), experts=11, top_k=3, shown=5, **options),
        edge("too_few_shown", "any", "t6e11a4", front=(6,), experts=11, top_k=4, shown=2, **options),
    )


def _family(function: str, *edges: Edge, build: Callable[..., Inputs] | None = None) -> Family:
    made = router(function) if build is None else build
    return Family(function=function, build=made, axes=("", ""), chooses=favouring, edges=edges)


CAPPED = {"softcap": 2.0, "heat": 1.4}
FAMILIES = (
    _family(
        "top_k_softmax_router",
        edge("plain", "any", SIZE, "R1", "R2", **TOKENS),
        edge("hot", "any", "t5e17a4", "R1", front=(5,), experts=17, top_k=4, heat=4.0),
        *_shared(("R3",)),
        *_hidden(),
    ),
    _family(
        "softmax_top_k_router",
        edge("plain", "any", SIZE, "R1", renormalise=False, **TOKENS),
        edge("renormalised", "any", SIZE, "R2", renormalise=True, **TOKENS),
        edge("hot", "any", "t5e17a4", "R1", front=(5,), experts=17, top_k=4, heat=4.0, renormalise=False),
        *_shared(("R3",), renormalise=False),
        *_hidden(renormalise=True),
    ),
    _family(
        "softcapped_softmax_router",
        edge("around_cap", "any", SIZE, "R1", "R2", **CAPPED, **TOKENS),
        edge("large_cap", "any", SIZE, "R1", softcap=30.0, **TOKENS),
        *_shared(("R3",), **CAPPED),
    ),
    _family(
        "sigmoid_router",
        edge("correction", "any", SIZE, "R1", **TOKENS),
        edge("large_correction", "any", SIZE, "R1", bias=3.0, **TOKENS),
        edge("no_correction", "any", SIZE, "R5", bias=None, **TOKENS),
        edge("not_renormalised", "any", SIZE, "R4", renormalise=False, scaling_factor=2.5, **TOKENS),
        edge("renormalised_scaled", "any", SIZE, "R4", scaling_factor=2.5, **TOKENS),
        edge("fine_correction", "any", SIZE, "R1", heat=4.0, bias=1.0, bias_mean=4.5, fine=True, **TOKENS),
        edge("large_eps", "any", SIZE, eps=0.5, **TOKENS),
        edge("tiny_scores", "any", SIZE, "R1", heat=1.0, mean=-17.0, bias=6.0, **TOKENS),
        edge("groups", "any", GROUPED_SIZE, "R2", bias=0.2, **GROUPED),
        edge("lone_expert", "any", GROUPED_SIZE, "R2", bias=0.2, lone=True, **GROUPED),
        edge("negative_correction", "any", GROUPED_SIZE, "R3", bias=0.2, bias_mean=-3.0, **GROUPED),
        edge("groups_of_one", "any", "t5e6a2", "R2", front=(5,), experts=6, top_k=2, groups=6, top_groups=3, bias=0.3),
        edge("every_group_expert", "any", "t5e12a6", "R3", **{**GROUPED, "front": (5,), "top_k": 6}, bias=0.3),
        edge("tied_groups", "any", "t9e12a3", "R5", **{**GROUPED, "front": (9,)}, bias=None, ties=True),
        *_shared(("R5",), bias=None),
        build=sigmoid_router,
    ),
    _family("top_k_sigmoid_router", edge("plain", "any", SIZE, "R1", **TOKENS), *_shared(("R2",)), *_hidden()),
)
