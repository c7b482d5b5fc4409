"""Laws of layers with a state of constant size: pieces, steps, padding, groups of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.laws.law import Call, Draw, Law
from refimpl.layers import token_order
from refimpl.layers.signatures import signature_of
from refimpl.numerics import Array

BATCH, LENGTH = 3, 7
GROUPS, HEADS, KEY, VALUE, TAPS = 2, 6, 4, 5, 4
SCALE = 0.5
RULES = ("linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule")
GATED, CORRECTED = ("gated_linear_attention", "gated_delta_rule"), ("delta_rule", "gated_delta_rule")


@dataclass(frozen=True)
class Problem:
    """tokens: the arguments [B, T, ...] by name. fixed: the others. state: one from before. options: plain numbers."""

    function: str
    tokens: dict[str, Array]
    fixed: dict[str, Array] = field(default_factory=dict)
    state: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, call: Call, columns: slice = slice(None), **carried: Any) -> tuple[Array, Array]:
        """The results for some of the tokens, and the state. carried: a state and an order, where there are any."""
        arguments = {name: array[:, columns] for name, array in self.tokens.items()} | self.fixed
        names = [name for name in signature_of(self.function).parameters if name in arguments]
        found: tuple[Array, Array] = call(self.function, *(arguments[name] for name in names), **carried, **self.options)
        return found


def problem(draw: Draw, function: str, *, channel: bool = False) -> Problem:
    """Keys and queries of length near one, decays near e^-1."""
    if function == "causal_conv1d":
        fixed = {"weight": draw.normal(HEADS, TAPS), "bias": draw.normal(HEADS)}
        state = draw.normal(BATCH, HEADS, TAPS - 1)
        return Problem(function, {"x": draw.normal(BATCH, LENGTH, HEADS)}, fixed, state)
    state = draw.kept(draw.generator.standard_normal((BATCH, HEADS, KEY, VALUE)))
    q, k = (draw.normal(BATCH, LENGTH, GROUPS, KEY, scale=KEY**-0.5) for _ in range(2))
    v = draw.normal(BATCH, LENGTH, HEADS, VALUE)
    sizes = (BATCH, LENGTH, HEADS)
    if function == "ssd":
        # Powers of two: what they multiply is exact.
        steps = draw.kept(2.0 ** draw.generator.integers(-2, 2, sizes))
        rates = draw.kept(-np.exp(draw.generator.standard_normal(HEADS)))
        return Problem(function, {"x": v, "dt": steps, "b": k, "c": q}, {"a": rates}, state)
    tokens = {"q": q, "k": k, "v": v}
    if function.startswith("gated"):
        tokens["g"] = draw.kept(-np.exp(draw.generator.standard_normal((*sizes, KEY) if channel else sizes)))
    if "delta" in function:
        tokens["beta"] = draw.input(draw.generator.uniform(0.1, 0.9, sizes))
    return Problem(function, tokens, state=state, options={"scale": SCALE})


def pieces(function: str, part: int, *, channel: bool = False) -> Any:
    """Two pieces, of all lengths."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function, channel=channel)
        whole = given.run(call, state=given.state)[part]
        found = []
        for cut in range(1, LENGTH):
            first, state = given.run(call, slice(cut), state=given.state)
            second, after = given.run(call, slice(cut, None), state=state)
            found.append(after if part else np.concatenate([first, second], axis=1))
        return np.stack(found), np.stack([whole] * len(found))

    return sides


def one_by_one(function: str, part: int, *, channel: bool = False) -> Any:
    """A prefill without a state, then one token at a time."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function, channel=channel)
        y, state = given.run(call, slice(3))
        found = [y]
        for column in range(3, LENGTH):
            y, state = given.run(call, slice(column, column + 1), state=state)
            found.append(y)
        return state if part else np.concatenate(found, axis=1), given.run(call)[part]

    return sides


def rows_alone(function: str, part: int, *, channel: bool = False) -> Any:
    """A batch with padding anywhere, one row of it nothing else, against each row without its padding."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function, channel=channel)
        mask = np.array([[1, 1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 1, 1], [0] * LENGTH])
        results = given.run(call, order=token_order(mask), state=given.state)
        alone = []
        for row in range(BATCH - 1):
            kept = {name: array[row : row + 1, mask[row] == 1] for name, array in given.tokens.items()}
            alone.append(replace(given, tokens=kept).run(call, state=given.state[row : row + 1])[part])
        if part:
            return results[1], np.concatenate([*alone, given.state[-1:]])
        nothing = np.zeros_like(results[0][mask == 0])
        left = np.concatenate([results[0][mask == 1], results[0][mask == 0]])
        return left, np.concatenate([*(each[0] for each in alone), nothing])

    return sides


def repeated_heads(function: str, *, channel: bool = False) -> Any:
    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function, channel=channel)
        shared = {"q", "k", "b", "c"} & given.tokens.keys()
        many = {name: np.repeat(given.tokens[name], HEADS // GROUPS, axis=2) for name in shared}
        return given.run(call)[0], replace(given, tokens=given.tokens | many).run(call)[0]

    return sides


HANDED = "two pieces of any lengths give what the whole gives"
STEPS = "a prefill and then one token at a time give what all at once give"
ALONE = "a padded batch gives what its rows give alone, and nothing at its padding"
REPEATED = "grouped heads are heads with repeated keys and queries, neighbours together"


def kinds(functions: tuple[str, ...]) -> Iterator[tuple[str, str, dict[str, bool]]]:
    """Each function, once a kind of decay: it, what the names of its laws end in, and the switches of its problem."""
    for function in functions:
        yield function, "", {}
        if function in GATED:
            yield function, "_channel", {"channel": True}


def both(name: str, statement: str, make: Callable[[int], Any], *functions: str, phase: str) -> tuple[Law, Law]:
    """The law of the results, and that of the state, which stays in float32 but for the convolution's."""
    kept = functions[0] != "causal_conv1d"
    return (
        Law(name=name, functions=functions, statement=statement, sides=make(0), phase=phase),
        Law(name=f"{name}_state", functions=functions, statement=statement, sides=make(1), phase=phase, kept=kept),
    )


def _handed(function: str, end: str, switches: dict[str, bool]) -> Iterator[Law]:
    yield from both(f"pieces{end}", HANDED, lambda part: pieces(function, part, **switches), function, phase="pieces")
    yield from both(f"steps{end}", STEPS, lambda part: one_by_one(function, part, **switches), function, phase="decode")
    yield from both(f"rows{end}", ALONE, lambda part: rows_alone(function, part, **switches), function, phase="padded")


def _repeated(function: str, end: str, switches: dict[str, bool]) -> Law:
    sides = repeated_heads(function, **switches)
    return Law(name=f"repeated_heads{end}", functions=(function,), statement=REPEATED, sides=sides, phase="prefill")


LAWS = (
    *(law for kind in kinds(("causal_conv1d", *RULES, "ssd")) for law in _handed(*kind)),
    *(_repeated(*kind) for kind in kinds((*RULES, "ssd"))),
)
