"""Models whose linear attention is wired wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from conformance.mutants.mutant import Mutant
from conformance.mutants.wiring import as_kind, with_layers, with_mixers
from refimpl.blocks import GatedDeltaNet, Inputs, KimiDeltaAttention, Layer, State, Weights
from refimpl.blocks.delta_rule import DeltaRule
from refimpl.blueprint import Blueprint
from refimpl.numerics import Array
from refimpl.ops import Ops, Replaced

Plans = Callable[[Blueprint], Blueprint]


def _as_net(kind: type[GatedDeltaNet]) -> Plans:
    return with_mixers(GatedDeltaNet, lambda mixer: as_kind(kind, mixer))


class ProjectionsContiguous(GatedDeltaNet):
    """All of q, all of k, all of v, all of z."""

    def _ungrouped(self, ops: Ops, x: Any, sizes: tuple[int, ...]) -> list[Any]:
        if len(sizes) != 4:
            return super()._ungrouped(ops, x, sizes)
        return list(ops.split(x, sizes=tuple(size * self.key_heads for size in sizes)))


class GatesContiguous(GatedDeltaNet):
    """All of b, all of a."""

    def _ungrouped(self, ops: Ops, x: Any, sizes: tuple[int, ...]) -> list[Any]:
        if len(sizes) != 2:
            return super()._ungrouped(ops, x, sizes)
        return list(ops.split(x, sizes=tuple(size * self.key_heads for size in sizes)))


class GatesExchanged(GatedDeltaNet):
    def _ungrouped(self, ops: Ops, x: Any, sizes: tuple[int, ...]) -> list[Any]:
        found = super()._ungrouped(ops, x, sizes)
        return found[::-1] if len(sizes) == 2 else found


class ValuesAndGateExchanged(GatedDeltaNet):
    def _ungrouped(self, ops: Ops, x: Any, sizes: tuple[int, ...]) -> list[Any]:
        found = super()._ungrouped(ops, x, sizes)
        return [*found[:2], found[3], found[2]] if len(sizes) == 4 else found


@dataclass(frozen=True, kw_only=True)
class GatesOfAnotherLayer(GatedDeltaNet):
    """b and a are made of what the first such layer has read in the same call."""

    read: dict[str, Any] = field(compare=False)
    first: bool

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        if self.first:
            self.read["x"] = x

        def linear(value: Any, weight: Any, *bias: Any) -> Any:
            return ops.linear(self.read["x"] if weight.shape[0] == 2 * self.value_heads else value, weight, *bias)

        return super().__call__(Replaced(ops, {"linear": linear}), weights, x, inputs, state)


def _gates_of_the_first_layer(plan: Blueprint) -> Blueprint:
    read: dict[str, Any] = {}
    first = next((layer for layer in plan.layers if isinstance(layer.mixer, GatedDeltaNet)), None)

    def change(layer: Layer) -> Layer:
        mixer = layer.mixer
        if not isinstance(mixer, GatedDeltaNet):
            return layer
        own = {each.name: getattr(mixer, each.name) for each in fields(mixer)}
        return replace(layer, mixer=GatesOfAnotherLayer(**own, read=read, first=layer is first))

    return with_layers(change)(plan)


class LowRanksExchanged(KimiDeltaAttention):
    """The decay is made by the projections of the gate, and the gate by those of the decay."""

    def _low_rank(self, ops: Ops, weights: Weights, x: Any, name: str) -> Any:
        return super()._low_rank(ops, weights, x, {"f": "g", "g": "f"}[name])


def _with_rule(kind: type[DeltaRule]) -> Plans:
    """The rule of both mixers is of another kind."""

    class Net(GatedDeltaNet):
        @property
        def rule(self) -> DeltaRule:
            rule: DeltaRule = as_kind(kind, super().rule)
            return rule

    class Kimi(KimiDeltaAttention):
        @property
        def rule(self) -> DeltaRule:
            rule: DeltaRule = as_kind(kind, super().rule)
            return rule

    def change(plan: Blueprint) -> Blueprint:
        plan = with_mixers(KimiDeltaAttention, lambda mixer: as_kind(Kimi, mixer))(plan)
        return with_mixers(GatedDeltaNet, lambda mixer: as_kind(Net, mixer))(plan)

    return change


def _replacing(functions: Callable[[Ops], Mapping[str, Callable[..., Any]]]) -> type[DeltaRule]:
    """A rule some of whose functions are others; `functions` makes them of the right ones."""

    class Rule(DeltaRule):
        def __call__(
            self, ops: Ops, weights: Weights, qkv: Any, a: Any, b: Any, inputs: Inputs, state: State | None
        ) -> tuple[Any, State]:
            return super().__call__(Replaced(ops, functions(ops)), weights, qkv, a, b, inputs, state)

    return Rule


def _rewriting(name: str, change: Callable[[DeltaRule, Array], Array]) -> type[DeltaRule]:
    """A rule that takes a parameter for another."""

    class Rule(DeltaRule):
        def __call__(
            self, ops: Ops, weights: Weights, qkv: Any, a: Any, b: Any, inputs: Inputs, state: State | None
        ) -> tuple[Any, State]:
            own = {each: weights[each] for each in ("conv1d.weight", "a_log", "dt_bias")}
            return super().__call__(ops, {**own, name: change(self, own[name])}, qkv, a, b, inputs, state)

    return Rule


def _values_alone(rule: DeltaRule, weight: Array) -> Array:
    """Queries and keys pass the convolution as they are."""
    weight = weight.copy()
    keys = rule.widths[0] + rule.widths[1]
    weight[:keys] = np.eye(weight.shape[1], dtype=weight.dtype)[-1]
    return weight


def _values_first(rule: DeltaRule, weight: Array) -> Array:
    """The rows of the convolution are taken to be those of v, q, k."""
    return np.roll(weight, -rule.widths[2], axis=0)


def _rate_of_the_key_head(rule: DeltaRule, rates: Array) -> Array:
    return np.repeat(rates[: rule.key_heads], rule.value_heads // rule.key_heads)


class StatesOfThePrefill(DeltaRule):
    """A token that comes alone reads both states and leaves them as they were."""

    def __call__(
        self, ops: Ops, weights: Weights, qkv: Any, a: Any, b: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, State]:
        y, new = super().__call__(ops, weights, qkv, a, b, inputs, state)
        return y, new if state is None or qkv.shape[1] > 1 else state


class RecurrentStateAlone(DeltaRule):
    """The state of the convolution is not handed over."""

    def __call__(
        self, ops: Ops, weights: Weights, qkv: Any, a: Any, b: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, State]:
        past = None if state is None else {**state, "conv_state": ops.scale(state["conv_state"], factor=0.0)}
        return super().__call__(ops, weights, qkv, a, b, inputs, past)


class ConvolutionStateAlone(DeltaRule):
    """The state of the rule is not handed over."""

    def __call__(
        self, ops: Ops, weights: Weights, qkv: Any, a: Any, b: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, State]:
        past = None if state is None else {**state, "recurrent_state": ops.scale(state["recurrent_state"], factor=0.0)}
        return super().__call__(ops, weights, qkv, a, b, inputs, past)


NEXT, KIMI = ("qwen3_next",), ("kimi_linear",)
BOTH = NEXT + KIMI
MUTANTS = tuple(
    Mutant(id=id, says=says, blueprint=blueprint, architectures=architectures)
    for id, blueprint, architectures, says in (
        (
            "gdn-qkvz-contiguous-vs-grouped",
            _as_net(ProjectionsContiguous),
            NEXT,
            "The fused projection is taken for all of q, k, v and z in turn, not for those of each key head.",
        ),
        (
            "ba-contiguous",
            _as_net(GatesContiguous),
            NEXT,
            "The projection of beta and decay is taken for all of one and all of the other.",
        ),
        ("ba-exchanged", _as_net(GatesExchanged), NEXT, "Beta is made of the rows of the decay, and the reverse."),
        ("v-and-z-exchanged", _as_net(ValuesAndGateExchanged), NEXT, "Values are taken for the gate, and the reverse."),
        (
            "gdn-gates-from-stale-normed-input",
            _gates_of_the_first_layer,
            NEXT,
            "Beta and decay of every layer are made of the input of the first.",
        ),
        (
            "decay-and-gate-exchanged",
            with_mixers(KimiDeltaAttention, lambda mixer: as_kind(LowRanksExchanged, mixer)),
            KIMI,
            "The decay has the projections of the gate, and the reverse.",
        ),
        (
            "conv-of-values-alone",
            _with_rule(_rewriting("conv1d.weight", _values_alone)),
            BOTH,
            "Queries and keys are not convolved.",
        ),
        (
            "conv-rows-of-values-first",
            _with_rule(_rewriting("conv1d.weight", _values_first)),
            BOTH,
            "The rows of the convolution are taken in another order.",
        ),
        (
            "conv-not-activated",
            _with_rule(_replacing(lambda ops: {"silu": lambda x: x})),
            BOTH,
            "SiLU after the convolution is left out.",
        ),
        (
            "rate-of-the-key-head",
            _with_rule(_rewriting("a_log", _rate_of_the_key_head)),
            NEXT,
            "Value heads of a group share the rate of the first entries.",
        ),
        (
            "keys-not-normed",
            _with_rule(_replacing(lambda ops: {"l2_norm": lambda x, eps: x})),
            BOTH,
            "Queries and keys keep their length.",
        ),
        (
            "beta-up-to-two",
            _with_rule(_replacing(lambda ops: {"sigmoid": lambda x: ops.scale(ops.sigmoid(x), factor=2.0)})),
            BOTH,
            "Beta goes up to 2, as in models whose states may change sign.",
        ),
        ("states-of-the-prefill", _with_rule(StatesOfThePrefill), BOTH, "Tokens that are decoded do not enter the states."),
        (
            "conv-state-not-handed-over",
            _with_rule(RecurrentStateAlone),
            BOTH,
            "What is decoded is convolved with zeros before it.",
        ),
        (
            "recurrent-state-not-handed-over",
            _with_rule(ConvolutionStateAlone),
            BOTH,
            "What is decoded starts from an empty state.",
        ),
    )
)
