"""States of linear attention that are wrong: where they come from, what padding does to them, what is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from conformance.mutants.by_name import Arguments, computed
from conformance.mutants.linear_attention import DECAYING, RULES, given_to_rules
from conformance.mutants.mutant import Mutant
from refimpl.layers import VOCABULARY
from refimpl.numerics import Array


def padding_forgets(function: str, arguments: Arguments) -> tuple[Array, Array]:
    """Padding writes nothing, but its decay reaches the state."""
    if arguments["order"] is None:
        return _right(function, arguments)
    padding = (arguments["order"] < 0)[..., None, None]
    silent = {name: np.where(padding, 0, arguments[name]).astype(arguments["k"].dtype) for name in ("k", "v")}
    y, state = _right(function, {**arguments, **silent, "order": None})
    return np.where(padding, 0, y), state


def padding_answers(function: str, arguments: Arguments) -> tuple[Array, Array]:
    """The state is passed over padding, but padding's own queries read it."""
    y, state = _right(function, arguments)
    return np.where(y == 0, _right(function, {**arguments, "order": None})[0], y), state


def state_before_the_last_token(function: str, arguments: Arguments) -> tuple[Array, Array]:
    """The state that is handed over lacks the last column, as one that is kept before it is updated."""
    y, _ = _right(function, arguments)
    fewer = {
        name: value[:, :-1] if name in ("q", "k", "v", "g", "beta", "order") and value is not None else value
        for name, value in arguments.items()
    }
    return y, _right(function, fewer)[1]


def state_of_the_row_before(function: str, arguments: Arguments) -> tuple[Array, Array]:
    """Rows are texts packed one behind the other: each starts with what the one before has left."""
    rows, state = [], arguments["state"]
    carried = None if state is None else state[:1]
    for row in range(len(arguments["v"])):
        own = {name: value[row : row + 1] if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
        rows.append(_right(function, {**own, "state": carried}))
        carried = rows[-1][1]
    return np.concatenate([y for y, _ in rows]), np.concatenate([S for _, S in rows])


def state_of_the_first_row(arguments: Arguments) -> Arguments:
    state = arguments["state"]
    return {"state": None if state is None else np.repeat(state[:1], len(state), axis=0)}


def state_transposed(arguments: Arguments) -> Arguments:
    """The memory of a state [B, H, J, K] is taken for one of [B, H, K, J]."""
    state = arguments["state"]
    return {"state": None if state is None else np.ascontiguousarray(state.swapaxes(2, 3)).reshape(state.shape)}


def _right(function: str, arguments: Arguments) -> Any:
    return VOCABULARY[function](**arguments)


def _around(id: str, says: str, functions: Sequence[str], compute: Any, *reports: str) -> Mutant:
    """Something else made of the right functions."""
    faulty = {name: computed(name, partial(compute, name)) for name in functions}
    return Mutant(id=id, says=says, reports=reports, functions=faulty)


MUTANTS = (
    given_to_rules("recurrent-padding-written", "Padding is taken for tokens.", RULES, lambda own: {"order": None}),
    _around("recurrent-padding-forgets", "Padding writes nothing but lets the state decay.", DECAYING, padding_forgets),
    _around("recurrent-padding-answers", "The queries of padding are answered.", RULES, padding_answers),
    given_to_rules("recurrent-state-ignored", "Each call starts with an empty state.", RULES, lambda own: {"state": None}),
    _around(
        "recurrent-state-before-the-last-token",
        "The state handed over lacks the last token.",
        RULES,
        state_before_the_last_token,
    ),
    _around(
        "gdn-packed-state-leak",
        "The state of one text is carried into the next.",
        RULES,
        state_of_the_row_before,
        "gdn-torch-fallback-ignores-cu-seqlens",
        "gdn-varlen-batch-index-ignored",
    ),
    given_to_rules(
        "spec-recurrent-copy-cell-missing", "All rows start with the state of the first.", RULES, state_of_the_first_row
    ),
    given_to_rules("recurrent-state-transposed", "A state is read with keys and values exchanged.", RULES, state_transposed),
)
