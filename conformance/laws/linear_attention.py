"""Laws of linear attention, and of what stands around it: decays, the convolution, the gated norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.laws.law import Call, Draw, Law
from conformance.laws.recurrence import (
    BATCH,
    CORRECTED,
    GATED,
    GROUPS,
    HEADS,
    KEY,
    LENGTH,
    TAPS,
    VALUE,
    Problem,
    both,
    kinds,
    problem,
)
from refimpl.numerics import Array


def equal_channels(function: str, part: int) -> Any:
    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function)
        each = np.repeat(given.tokens["g"][..., None], KEY, axis=-1)
        other = replace(given, tokens=given.tokens | {"g": each})
        return other.run(call, state=given.state)[part], given.run(call, state=given.state)[part]

    return sides


def without_decay(function: str, plain: str, part: int, *, channel: bool = False) -> Any:
    """Decays of 1, against the rule that has none."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function, channel=channel)
        zeros = given.tokens | {"g": np.zeros_like(given.tokens["g"])}
        rest = {name: array for name, array in given.tokens.items() if name != "g"}
        left = replace(given, tokens=zeros).run(call, state=given.state)[part]
        return left, replace(given, function=plain, tokens=rest).run(call, state=given.state)[part]

    return sides


def only_decay(function: str, *, channel: bool = False) -> Any:
    """The state after tokens that write nothing."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, function, channel=channel)
        beta = np.zeros_like(given.tokens["beta"])
        state = replace(given, tokens=given.tokens | {"beta": beta}).run(call, state=given.state)[1]
        g = given.tokens.get("g", beta)
        return state, given.state * np.exp(g.sum(axis=1)).reshape(BATCH, HEADS, -1, 1)

    return sides


def _signs(count: int) -> Array:
    """Orthonormal keys [count, 4] that every format holds: rows of a Hadamard matrix, halved."""
    two = np.array([[1, 1], [1, -1]])
    rows: Array = np.kron(two, two)[:count] / 2
    return rows


def retrieval(function: str) -> Any:
    """Three orthonormal keys are written, then each is asked for by tokens that write nothing."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        keys = draw.input(np.broadcast_to(_signs(3)[:, None], (BATCH, 3, GROUPS, KEY)))
        v = draw.normal(BATCH, 3, HEADS, VALUE)
        ones = draw.input(np.ones((BATCH, 3, HEADS)))
        decays = {"g": np.zeros_like(ones)} if function.startswith("gated") else {}
        tokens = {"q": keys, "k": keys, "v": v, **decays, "beta": ones}
        written = Problem(function, tokens, options={"scale": 1.0})
        asking = replace(written, tokens=tokens | {"beta": np.zeros_like(ones)})
        return asking.run(call, state=written.run(call)[1])[0], v

    return sides


def overwritten(function: str) -> Any:
    """One key, again and again: the state holds its last value alone."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        keys = draw.input(np.broadcast_to(_signs(2)[1], (BATCH, LENGTH, GROUPS, KEY)))
        v = draw.normal(BATCH, LENGTH, HEADS, VALUE)
        ones = draw.input(np.ones((BATCH, LENGTH, HEADS)))
        g = draw.kept(-np.exp(draw.generator.standard_normal(ones.shape)))
        decays = {"g": g} if function.startswith("gated") else {}
        tokens = {"q": keys, "k": keys, "v": v, **decays, "beta": ones}
        state = Problem(function, tokens, options={"scale": 1.0}).run(call)[1]
        return state, keys[:, -1, :1, :, None] * v[:, -1, :, None]

    return sides


def is_gated_linear_attention(part: int) -> Any:
    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        given = problem(draw, "ssd")
        x, dt, b, c = (given.tokens[name] for name in ("x", "dt", "b", "c"))
        tokens = {"q": c, "k": b, "v": x * dt[..., None], "g": dt * given.fixed["a"]}
        other = Problem("gated_linear_attention", tokens, options={"scale": 1.0})
        return given.run(call, state=given.state)[part], other.run(call, state=given.state)[part]

    return sides


def skip(call: Call, draw: Draw) -> tuple[Array, Array]:
    given = problem(draw, "ssd")
    d = draw.kept(draw.generator.standard_normal(HEADS))
    skipping = replace(given, fixed=given.fixed | {"d": d})
    return skipping.run(call)[0], given.run(call)[0] + d[:, None] * given.tokens["x"]


def taps_of_nothing(call: Call, draw: Draw) -> tuple[Array, Array]:
    """First taps of 0, against fewer taps."""
    given = problem(draw, "causal_conv1d")
    weight = np.concatenate([np.zeros_like(given.fixed["weight"]), given.fixed["weight"]], axis=1)
    longer = replace(given, fixed=given.fixed | {"weight": weight})
    return longer.run(call)[0], given.run(call)[0]


def one_tap(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, weight = draw.normal(BATCH, LENGTH, HEADS), draw.normal(HEADS, 1)
    return call("causal_conv1d", x, weight)[0], x * weight[:, 0]


def state_is_the_last_inputs(call: Call, draw: Draw) -> tuple[Array, Array]:
    given = problem(draw, "causal_conv1d")
    return given.run(call)[1], given.tokens["x"][:, 1 - TAPS :].swapaxes(1, 2)


def equal_channels_of_a_decay(call: Call, draw: Draw) -> tuple[Array, Array]:
    a, bias = draw.normal(BATCH, LENGTH, HEADS, scale=3), draw.kept(draw.generator.standard_normal(HEADS))
    rates = draw.kept(draw.generator.standard_normal(HEADS))
    left = call("softplus_decay", np.repeat(a[..., None], KEY, axis=-1), rates, np.repeat(bias, KEY))
    return left, np.repeat(call("softplus_decay", a, rates, bias)[..., None], KEY, axis=-1)


def opposite_decays(call: Call, draw: Draw) -> tuple[Array, Array]:
    """softplus(x) - softplus(-x) = x."""
    a, bias = draw.normal(BATCH, LENGTH, HEADS, scale=3), draw.kept(draw.generator.standard_normal(HEADS))
    rates = draw.kept(draw.generator.standard_normal(HEADS))
    left = call("softplus_decay", -a, rates, -bias) - call("softplus_decay", a, rates, bias)
    return left, np.exp(rates) * (a + bias)


def open_gate(call: Call, draw: Draw) -> tuple[Array, Array]:
    """σ(60) is 1 in every format."""
    x, weight = draw.normal(2, 5, 24), draw.normal(24)
    gate = draw.input(np.full(x.shape, 60.0))
    left = call("gated_rms_norm", x, gate, weight, eps=1e-5, activation="sigmoid")
    return left, call("rms_norm", x, weight, eps=1e-5)


def gate_times_its_sigmoid(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, gate, weight = draw.normal(2, 5, 24), draw.normal(2, 5, 24, scale=2), draw.normal(24)
    left = call("gated_rms_norm", x, gate, weight, eps=1e-5, activation="silu")
    return left, gate * call("gated_rms_norm", x, gate, weight, eps=1e-5, activation="sigmoid")


def one_gate_before_the_norm(call: Call, draw: Draw) -> tuple[Array, Array]:
    """A gate that is the same for a row and so large that it is 1."""
    x, weight = draw.normal(2, 5, 24), draw.normal(24)
    gate = draw.input(np.full(x.shape, 60.0))
    left = call("gated_rms_norm", x, gate, weight, eps=1e-5, activation="sigmoid", gate_first=True)
    return left, call("gated_rms_norm", x, gate, weight, eps=1e-5, activation="sigmoid")


def _law(name: str, statement: str, sides: Any, *functions: str, **options: Any) -> Law:
    return Law(name=name, functions=functions, statement=statement, sides=sides, **options)


EQUAL = "a decay a channel whose channels are equal is a decay a head"
NO_DECAY = "with decays of 1 it is the rule that never forgets"
PLAIN = {"gated_linear_attention": "linear_attention", "gated_delta_rule": "delta_rule"}


def _gated(function: str) -> tuple[Law, ...]:
    plain = PLAIN[function]
    return (
        *both("equal_channels", EQUAL, lambda part: equal_channels(function, part), function, phase="pieces"),
        *both("no_decay", NO_DECAY, lambda part: without_decay(function, plain, part), function, plain, phase="pieces"),
        _law("no_decay_channel", NO_DECAY, without_decay(function, plain, 0, channel=True), function, plain, phase="pieces"),
    )


def _corrected(function: str, end: str, switches: dict[str, bool]) -> Law:
    sides = only_decay(function, **switches)
    return _law(f"only_decay{end}", "with a beta of 0 only decay is left", sides, function, phase="pieces", kept=True)


IS_GATED = "it is gated linear attention of steps times inputs, with decays that are steps times rates"
LAWS = (
    *(law for function in GATED for law in _gated(function)),
    *(_corrected(*kind) for kind in kinds(CORRECTED)),
    *(
        _law("retrieval", "orthonormal keys give back what they wrote", retrieval(function), function, phase="pieces")
        for function in CORRECTED
    ),
    *(
        _law(
            "overwritten", "of a repeated key the last value stays", overwritten(function), function, phase="prefill", kept=True
        )
        for function in CORRECTED
    ),
    *both("is_gated", IS_GATED, is_gated_linear_attention, "ssd", "gated_linear_attention", phase="pieces"),
    _law("skip", "the skip adds d times the input", skip, "ssd", phase="prefill"),
    _law("taps_of_nothing", "first taps of 0 are none", taps_of_nothing, "causal_conv1d", phase="prefill"),
    _law("one_tap", "one tap is a factor a channel", one_tap, "causal_conv1d", phase="prefill"),
    _law("last_inputs", "the state is the last inputs", state_is_the_last_inputs, "causal_conv1d", phase="prefill"),
    _law("equal_channels", "equal channels decay as their head", equal_channels_of_a_decay, "softplus_decay", kept=True),
    _law("opposite", "softplus(x) - softplus(-x) is x", opposite_decays, "softplus_decay", kept=True),
    _law("open_gate", "a gate that is open changes nothing", open_gate, "gated_rms_norm", "rms_norm"),
    _law("own_sigmoid", "silu is the gate times its sigmoid", gate_times_its_sigmoid, "gated_rms_norm"),
    _law("open_gate_first", "an open gate may stand on either side", one_gate_before_the_norm, "gated_rms_norm"),
)
