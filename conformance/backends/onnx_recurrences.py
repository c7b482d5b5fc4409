"""The recurrent operators of ONNX and of onnxruntime as layers: both have the same two, in two domains."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from conformance.backends.rows import row_by_row
from conformance.backends.single_node import Operators
from refimpl.numerics import Array


class OnnxBackend:
    """Single nodes of one domain in one runtime."""

    domain = ""

    def __init__(self, name: str, node: Operators, dtypes: tuple[str, ...]) -> None:
        self.name = name
        self.dtypes = dtypes
        self.node = node

    @property
    def version(self) -> str:
        """The version of the package whose operators run."""
        return str(importlib.import_module(self.node.package).__version__)


class OnnxConvolution(OnnxBackend):
    """`refimpl.layers.convolution` by CausalConvWithState."""

    def causal_conv1d(
        self, x: Array, weight: Array, bias: Array | None = None, state: Array | None = None, order: Array | None = None
    ) -> tuple[Array, Array]:
        def run(arrays: Any, state: Array | None) -> tuple[Array, Array]:
            channels = np.ascontiguousarray(arrays[0].swapaxes(1, 2))
            y, state = self.convolved(channels, np.ascontiguousarray(weight[:, None]), bias, state)
            return y.swapaxes(1, 2), state

        return row_by_row(run, (x,), state, order)

    def convolved(self, x: Array, weight: Array, bias: Array | None, state: Array | None) -> tuple[Array, Array]:
        """The operator for rows without padding: x [B, D, T], weight [D, 1, W]."""
        return self.node("CausalConvWithState", x, weight, bias, state, domain=self.domain, outputs=("y", "state"))


class OnnxLinearAttention(OnnxBackend):
    """`refimpl.layers.linear_attention` by LinearAttention."""

    def linear_attention(
        self, q: Array, k: Array, v: Array, state: Array | None = None, order: Array | None = None, *, scale: float
    ) -> tuple[Array, Array]:
        return self.attended("linear", q, k, v, None, None, state, order, scale)

    def gated_linear_attention(
        self, q: Array, k: Array, v: Array, g: Array, state: Array | None = None, order: Array | None = None, *, scale: float
    ) -> tuple[Array, Array]:
        return self.attended("gated", q, k, v, g, None, state, order, scale)

    def delta_rule(
        self, q: Array, k: Array, v: Array, beta: Array, state: Array | None = None, order: Array | None = None, *, scale: float
    ) -> tuple[Array, Array]:
        return self.attended("delta", q, k, v, None, beta, state, order, scale)

    def gated_delta_rule(
        self,
        q: Array,
        k: Array,
        v: Array,
        g: Array,
        beta: Array,
        state: Array | None = None,
        order: Array | None = None,
        *,
        scale: float,
    ) -> tuple[Array, Array]:
        return self.attended("gated_delta", q, k, v, g, beta, state, order, scale)

    def attended(
        self,
        rule: str,
        q: Array,
        k: Array,
        v: Array,
        g: Array | None,
        beta: Array | None,
        state: Array | None,
        order: Array | None,
        scale: float,
    ) -> tuple[Array, Array]:
        """The recurrence of one of the four rules; keys are repeated, as the operator has a state for each of them."""
        if q.dtype.itemsize < 4:
            raise NotImplementedError("the operator LinearAttention has one type for decays and values; decays need float32")
        H, given = v.shape[2], [array for array in (g, beta) if array is not None]
        q, k = (np.repeat(array, H // array.shape[2], axis=2) for array in (q, k))

        def run(arrays: Any, state: Array | None) -> tuple[Array, Array]:
            packed = [np.ascontiguousarray(array.reshape(*array.shape[:2], -1)) for array in arrays]
            gates = iter(packed[3:])
            decay = None if g is None else next(gates)
            rate = None if beta is None else next(gates)
            y, state = self.recurrent(rule, H, scale, [*packed[:3], state, decay, rate])
            return y.reshape(*y.shape[:2], H, -1), state

        return row_by_row(run, (q, k, v, *given), state, order)

    def recurrent(self, rule: str, heads: int, scale: float, inputs: list[Array | None]) -> tuple[Array, Array]:
        """The operator for rows without padding: everything packed [B, T, ...] but the state."""
        settings = {"q_num_heads": heads, "kv_num_heads": heads, "scale": scale, "update_rule": rule}
        return self.node("LinearAttention", *inputs, domain=self.domain, outputs=("y", "state"), **settings)
