"""Mixture of experts: the chosen feed-forward networks of each token, weighed and summed.

Two forms: `expert_mixture` runs every expert on every token and is the definition; `routed_experts` runs each expert on its
own tokens alone and is what models use.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from refimpl.layers.mlp import clamped_swiglu, geglu, linear, swiglu
from refimpl.numerics import Array
from refimpl.shapes import check, check_flags, check_floats, check_integers, check_numbers

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "clamped_swiglu")


def expert_mixture(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    *,
    activation: str = "silu",
    alpha: float | None = None,
    limit: float | None = None,
    scale_input: bool = False,
) -> Array:
    """Every expert on every token, weighed by 0 where it was not chosen: the definition.

    m_te = sum over a of w_ta [i_ta = e]
    f_e(x) = (act(x Gᵀ_e + bg_e, x Uᵀ_e + bu_e)) Dᵀ_e + bd_e
    y_t  = sum over e with m_te ≠ 0 of m_te f_e(x_t), or of f_e(m_te x_t) when `scale_input`

    Shapes: x [..., D], indices int [..., A] in 0 .. E-1, weights [..., A]; gate and up [E, F, D], down [E, D, F], gate_bias and
      up_bias [E, F], down_bias [E, D] or absent; y as x. act is swiglu ("silu"), geglu ("gelu", "gelu_tanh") or
      `clamped_swiglu` with alpha and limit.
    Rules:
      R1  the weight multiplies the whole output of the expert, its last bias included; an expert of weight 0 adds nothing,
          even where its output is infinite.
      R2  with `scale_input` it multiplies the expert's input instead, and the output is summed as it is; an expert of weight 0
          still adds nothing, whatever its biases.
      R3  gate and up biases are added before the activation (and before its clamp).
      R4  experts renumbered together with their indices change nothing.
      R5  all experts chosen give the dense mixture; the weights of an expert that is chosen twice add up.
    Dtype: T1  each expert as `linear` and its activation; its output is weighed and summed in the model's format.
           This function computes in the dtype of x.
    Pitfalls: the last bias not weighed (expert-down-bias-unweighted) or lost (expert-bias-lost-in-aliased-buffer); the
      weight on the wrong side (llama4-router-weight-after-expert) or on both (llama4-router-weight-input-and-output); bias
      after the clamp (expert-bias-before-clamp); gate and up exchanged (swiglu-gate-up-swapped).
    Source: Shazeer et al., arXiv:1701.06538, equation 1; gpt-oss, Llama 4 releases (`scale_input`).
    """
    experts = _Experts("expert_mixture", x, indices, weights, (gate, up, down), (gate_bias, up_bias, down_bias))
    experts.choose(activation, alpha, limit, scale_input=scale_input)
    y = np.zeros_like(experts.rows)
    for expert in range(len(gate)):
        share = experts.share(expert)
        output = experts.run(expert, experts.rows * share if scale_input else experts.rows)
        output = np.where(share != 0, output, y.dtype.type(0))
        y = y + (output if scale_input else output * share)
    return y.reshape(x.shape)


def routed_experts(
    x: Array,
    indices: Array,
    weights: Array,
    gate: Array,
    up: Array,
    down: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    *,
    activation: str = "silu",
    alpha: float | None = None,
    limit: float | None = None,
    scale_input: bool = False,
) -> Array:
    """`expert_mixture` where each expert sees the tokens that chose it, and no other.

    y_t = sum over the experts e of a token of m_te f_e(x_t), or of f_e(m_te x_t) when `scale_input`

    Shapes, options, rules, dtype: as `expert_mixture`. gate, up and down may be `LazyArray`s: only the matrices of chosen
      experts are read.
    Rules:
      R6  equals `expert_mixture`; a token's result does not depend on which other tokens there are.
      R7  an expert that nobody chose, or only with weight 0, is not touched.
    Pitfalls: tokens of an expert mixed up on the way back (llama4-router-scores-not-transposed); a shape without tokens
      (zero-token-rank-combine).
    Source: Fedus et al., arXiv:2101.03961, section 2.2 (without capacity: no token is dropped).
    """
    experts = _Experts("routed_experts", x, indices, weights, (gate, up, down), (gate_bias, up_bias, down_bias))
    experts.choose(activation, alpha, limit, scale_input=scale_input)
    y = np.zeros_like(experts.rows)
    for expert in np.unique(experts.chosen):
        shares = experts.share(expert)
        tokens = np.nonzero(shares[:, 0])[0]
        if not tokens.size:
            continue
        share, rows = shares[tokens], experts.rows[tokens]
        if scale_input:
            y[tokens] = y[tokens] + experts.run(expert, rows * share)
        else:
            y[tokens] = y[tokens] + experts.run(expert, rows) * share
    return y.reshape(x.shape)


class _Experts:
    """The checked arguments of a call, tokens as rows [N, D] and choices as [N, A]."""

    def __init__(
        self,
        layer: str,
        x: Array,
        indices: Array,
        weights: Array,
        matrices: tuple[Array, Array, Array],
        biases: tuple[Array | None, Array | None, Array | None],
    ) -> None:
        gate, up, down = matrices
        sizes = check(
            layer,
            x=(x, "...D"),
            gate=(gate, "EFD"),
            up=(up, "EFD"),
            down=(down, "EDF"),
            gate_bias=(biases[0], "EF?"),
            up_bias=(biases[1], "EF?"),
            down_bias=(biases[2], "ED?"),
            indices=(indices, "...A"),
            weights=(weights, "...A"),
        )
        names = ("gate_bias", "up_bias", "down_bias")
        floats = dict(zip(names, biases, strict=True))
        check_floats(layer, x=x, weights=weights, gate=gate, up=up, down=down, **floats)
        check_integers(layer, indices=indices)
        choices = (*x.shape[:-1], sizes["A"])
        if indices.shape != choices or weights.shape != choices:
            raise ValueError(
                f"{layer}: indices have shape {indices.shape} and weights {weights.shape} but x {x.shape} needs {choices}"
            )
        if indices.size and not (indices.min() >= 0 and indices.max() < sizes["E"]):
            raise ValueError(
                f"{layer}: indices range from {indices.min()} to {indices.max()} but must lie in 0 .. {sizes['E'] - 1}"
            )
        self._layer, self._matrices, self._biases = layer, matrices, biases
        tokens = prod(x.shape[:-1])
        self.rows = x.reshape(tokens, sizes["D"])
        self.chosen = indices.reshape(tokens, sizes["A"])
        self._weights = weights.reshape(tokens, sizes["A"])

    def choose(self, activation: str, alpha: float | None, limit: float | None, *, scale_input: bool) -> None:
        """Set the activation. ValueError for one that does not exist or constants that it does not have."""
        check_flags(self._layer, scale_input=scale_input)
        if activation not in ACTIVATIONS:
            raise ValueError(f"{self._layer}: activation is {activation!r} but must be one of {', '.join(ACTIVATIONS)}")
        if activation == "clamped_swiglu":
            check_numbers(self._layer, alpha=alpha)
            check_numbers(self._layer, limit=limit, above=0)
        elif alpha is not None or limit is not None:
            raise ValueError(f"{self._layer}: alpha and limit belong to clamped_swiglu, but activation is {activation!r}")
        self._activation, self._constants = activation, {"alpha": alpha, "limit": limit}

    def share(self, expert: int) -> Array:
        """m_te of one expert: [N, 1]."""
        return np.sum(np.where(self.chosen == expert, self._weights, 0), axis=-1, keepdims=True, dtype=self._weights.dtype)

    def run(self, expert: int, rows: Array) -> Array:
        """f_e of rows [N, D]."""
        gate, up, down = (matrix[expert] for matrix in self._matrices)
        gate_bias, up_bias, down_bias = (None if bias is None else bias[expert] for bias in self._biases)
        product = self._act(linear(rows, gate, gate_bias), linear(rows, up, up_bias))
        return linear(product, down, down_bias)

    def _act(self, gate: Array, up: Array) -> Array:
        constants: Any = self._constants
        match self._activation:
            case "silu":
                return swiglu(gate, up)
            case "gelu":
                return geglu(gate, up)
            case "gelu_tanh":
                return geglu(gate, up, approximate="tanh")
        return clamped_swiglu(gate, up, **constants)
