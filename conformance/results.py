"""What a function of the vocabulary returns: how many arrays, and numbers of which kind.

Checked where a backend's result comes in, so that nothing later computes with texts, dates or objects. Shapes and formats
are the judge's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.calls import Misbehaved
from conformance.judge import failure
from refimpl.numerics import LowPrecision, is_float

ROUTERS = (
    "top_k_softmax_router",
    "softmax_top_k_router",
    "softcapped_softmax_router",
    "sigmoid_router",
    "top_k_sigmoid_router",
)
RECURRENCES = ("linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule", "ssd")
# The kinds of a function's results, one a result; a single float where nothing else is said.
KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("rope_cos_sin", "expand_latent"), ("float", "float")),
    **dict.fromkeys(("causal_conv1d", *RECURRENCES), ("float", "float")),
    **dict.fromkeys(ROUTERS, ("integer", "float")),
    "speculative_accept": ("integer", "float"),
    **dict.fromkeys(("token_order", "ring_order"), ("integer",)),
    **dict.fromkeys(("padding_mask", "causal_mask", "sliding_window_mask", "chunked_mask", "attention_mask"), ("bool",)),
}
# Entries; no result of the suite comes near it, while a broadcast view may claim to have any number of them.
LARGEST = 2**24


def check_result(function: str, result: Any) -> None:
    """Misbehaved when `result` is nothing that `function` can return."""
    kinds = KINDS.get(function, ("float",))
    if len(kinds) == 1 and isinstance(result, tuple):
        raise Misbehaved(failure("shape", f"{function} returned {len(result)} arrays in a tuple but needs one by itself"))
    if len(kinds) > 1 and isinstance(result, (tuple, np.ndarray)):
        found = len(result) if isinstance(result, tuple) else 1
        if found != len(kinds) or not isinstance(result, tuple):
            raise Misbehaved(failure("shape", f"{function} returned {found} arrays but needs a tuple of {len(kinds)}"))
    arrays = result if isinstance(result, tuple) else (result,) * len(kinds)
    for array, kind in zip(arrays, kinds, strict=True):
        check_array(array, function, kind)


def check_array(array: Any, function: str, kind: str = "float") -> None:
    """Misbehaved unless `array` is a NumPy array of a moderate size with numbers of `kind`: float, integer or bool."""
    if type(array) not in (np.ndarray, LowPrecision):  # others, masked arrays among them, compute by rules of their own
        raise Misbehaved(failure("dtype", f"{function} returned a {type(array).__name__} but needs a plain NumPy array"))
    fits = {"float": is_float(array.dtype), "integer": array.dtype.kind in "iu", "bool": array.dtype.kind == "b"}
    if not fits[kind]:
        raise Misbehaved(failure("dtype", f"{function} returned dtype {array.dtype} but needs {_NEEDED[kind]}"))
    if array.size > LARGEST:
        raise Misbehaved(failure("shape", f"{function} returned shape {array.shape}, larger than any result of the suite"))


_NEEDED = {"float": "a float format", "integer": "an integer format", "bool": "bool"}
