"""What stays in float32 where a model computes in bfloat16 or float16: some arguments of a layer, some of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refimpl.layers.signatures import signature_of


@dataclass(frozen=True)
class Wide:
    """Names of arguments, and places among the results (0 where there is one)."""

    arguments: tuple[str, ...]
    results: tuple[int, ...] = ()


WIDE: Mapping[str, Wide] = {
    "rope_cos_sin": Wide(("inv_freq",)),
    "sigmoid_router": Wide(("correction_bias",)),
    "softplus_decay": Wide(("a_log", "dt_bias"), (0,)),
    "linear_attention": Wide(("state",), (1,)),
    "gated_linear_attention": Wide(("g", "state"), (1,)),
    "delta_rule": Wide(("state",), (1,)),
    "gated_delta_rule": Wide(("g", "state"), (1,)),
    "ssd": Wide(("dt", "a", "d", "state"), (1,)),
}


def converted(
    name: str,
    values: Sequence[Any],
    options: Mapping[str, Any],
    *,
    narrow: Callable[[Any], Any],
    wide: Callable[[Any], Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of `name`: those that stay in float32 through `wide`, all others through `narrow`."""
    kept = WIDE[name].arguments if name in WIDE else ()
    names = signature_of(name).parameters if kept else ("",) * len(values)
    positional = tuple(
        wide(value) if argument in kept else narrow(value) for argument, value in zip(names, values, strict=False)
    )
    return positional, {key: wide(value) if key in kept else narrow(value) for key, value in options.items()}


def stays_wide(name: str, place: int) -> bool:
    """Whether result `place` of the layer `name` stays in float32."""
    return name in WIDE and place in WIDE[name].results
