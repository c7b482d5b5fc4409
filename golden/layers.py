"""Golden layers: which of the suite's cases are stored, and how a stored one is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance import Case, cases
from refimpl.layers import VOCABULARY
from refimpl.numerics import Array

# Of layers with a state of constant size, whose cases are large for what they say, these alone: variant and phase.
FEW: dict[str, tuple[str, ...]] = {
    "gated_rms_norm": ("sigmoid_gate_first-any", "large_gates-any"),
    "causal_conv1d": ("two_taps-prefill", "short_state-pieces", "state-decode"),
    "softplus_decay": ("head-any", "far-any", "channel-decode"),
    "linear_attention": ("state-decode",),
    "gated_linear_attention": ("head_state-decode", "channel_state-decode"),
    "delta_rule": ("state-decode",),
    "gated_delta_rule": ("head_state-decode", "channel_state-decode", "one_group-prefill"),
    "ssd": ("state-decode",),
}


def golden_cases() -> list[Case]:
    """The hand-picked layer cases whose numbers are float64 or integers."""
    return [case for case in cases(dtypes=("float64",), levels=("layer",), max_examples=0) if _stored(case)]


def _stored(case: Case) -> bool:
    few = FEW.get(case.function)
    return few is None or any(case.id.startswith(f"{case.function}/{name}-f64-") for name in few)


def split(case: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and the other arguments of a case, by name; a dtype by its own."""
    everything = {**case.inputs.arguments, **case.inputs.options}
    arrays = {name: value for name, value in everything.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in everything.items() if name not in arrays}
    return arrays, {name: str(value) if isinstance(value, np.dtype) else value for name, value in others.items()}


def evaluate(function: str, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> dict[str, Array]:
    """The specification's results: `out` of a layer, or `out.0`, `out.1` of one that returns two."""
    result = VOCABULARY[function](**arrays, **options)
    if isinstance(result, tuple):
        return {f"out.{index}": array for index, array in enumerate(result)}
    return {"out": result}
