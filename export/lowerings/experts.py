"""Routed experts in standard operators; `refimpl.layers.experts` says what they compute.

One loop over the experts that somebody chose, with a weight that is not 0. Each round fetches the matrices of one expert,
runs it on the tokens that chose it, and adds their weighed results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.graph import Body, Value
from export.lowerings.mlp import clamped_swiglu, geglu, swiglu

Fetch = Callable[[Body, Value], Value]


@dataclass(frozen=True)
class Projection:
    """One linear map of every expert.

    fetch(f, expert): the matrix, [in, out] where `transposed`. outputs: which of its outputs are meant (start, stop, step)
    where several maps lie in one matrix; equal `key`s fetch the same one. bias: [E, O] or absent.
    """

    key: Any
    fetch: Fetch
    transposed: bool = False
    outputs: tuple[int, int, int] | None = None
    bias: Value | None = None


def routed_experts(
    f: Body,
    x: Value,
    indices: Value,
    weights: Value,
    gate: Projection,
    up: Projection,
    down: Projection,
    *,
    activation: str = "silu",
    alpha: float | None = None,
    limit: float | None = None,
    scale_input: bool = False,
) -> Value:
    rows, chosen, shares = (f.Reshape(each, f.Concat([-1], f.Shape(each, start=-1), axis=0)) for each in (x, indices, weights))
    active = f.Unique(f.Compress(f.Reshape(chosen, [-1]), f.Reshape(_not_zero(f, shares), [-1])), sorted=1)
    nothing = f.Expand(_zero(f, x), f.Shape(rows))

    def one_expert(inner: Body, step: Value, total: Value) -> Value:
        expert = inner.Gather(active, step, axis=0)
        token, share, mine = _dispatched(inner, expert, rows, chosen, shares)
        product = _Products(inner, expert, inner.Mul(mine, share) if scale_input else mine)
        both = product(gate), product(up)
        match activation:
            case "silu":
                middle = swiglu(inner, *both)
            case "gelu" | "gelu_tanh":
                middle = geglu(inner, *both, approximate="none" if activation == "gelu" else "tanh")
            case _:
                assert alpha is not None
                assert limit is not None
                middle = clamped_swiglu(inner, *both, alpha=alpha, limit=limit)
        y = _Products(inner, expert, middle)(down)
        # No token occurs twice here; onnxruntime adds in ScatterND for wide formats only.
        so_far = inner.GatherND(total, token)
        return inner.ScatterND(total, token, inner.Add(so_far, y if scale_input else inner.Mul(y, share)))

    total = f.loop(f.Size(active), nothing, one_expert)
    return f.known(f.Reshape(total, f.Shape(x)), x.shape)


def _dispatched(f: Body, expert: Value, rows: Value, chosen: Value, shares: Value) -> tuple[Value, Value, Value]:
    """The numbers [n, 1], weights [n, 1] and rows [n, D] of the tokens that chose `expert`, with a weight that is not 0."""
    # A token that names an expert twice is one token with the sum of both weights.
    share = f.ReduceSum(f.Where(f.Equal(chosen, expert), shares, _zero(f, shares)), [1], keepdims=1)
    token = f.Transpose(f.NonZero(_not_zero(f, f.Squeeze(share, [1]))), perm=[1, 0])
    return token, f.GatherND(share, token), f.GatherND(rows, token)


def _not_zero(f: Body, x: Value) -> Value:
    return f.Not(f.Equal(x, _zero(f, x)))


def _zero(f: Body, x: Value) -> Value:
    return f.constant(np.asarray(0, x.dtype))


class _Products:
    """The projections of the same rows by one expert; maps that lie in one matrix are one product."""

    def __init__(self, f: Body, expert: Value, rows: Value) -> None:
        self._f, self._expert, self._rows = f, expert, rows
        self._made: dict[Any, Value] = {}

    def __call__(self, projection: Projection) -> Value:
        f = self._f
        if projection.key not in self._made:
            matrix = projection.fetch(f, self._expert)
            self._made[projection.key] = f.Gemm(self._rows, matrix, transB=0 if projection.transposed else 1)
        y = self._made[projection.key]
        if projection.outputs is not None:
            start, stop, step = projection.outputs
            y = f.Slice(y, [start], [stop], [1], [step])
        if projection.bias is not None:
            y = f.Add(y, f.cast(f.Gather(projection.bias, self._expert, axis=0), y.dtype))
        return y
