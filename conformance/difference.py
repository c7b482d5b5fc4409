"""The first difference: where, in the order of computation, an implementation of a whole model leaves the specification.

Both run on the same checkpoint and tokens. Every tap that the candidate can show is compared under a budget of its own,
derived as everywhere (`conformance.judge`), which grows along the model as rounding does. The first tap outside its budget is
named with the function of the vocabulary that made it. Tokens at which a right implementation might choose other experts or
keys than the specification are left out from there on, and so are those of their row after them, which may see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.judge import Expectation, Pair, judge_one, noise_of, samples
from conformance.readings import Exact, on_floats
from conformance.verdict import Judgement
from refimpl.blueprint import Blueprint
from refimpl.layers import token_order
from refimpl.model import Model
from refimpl.numerics import Array, is_float
from refimpl.ops import Ops, Traced

# Glue that moves numbers and computes none: what it returns was made by whoever made what it was given.
MOVES = ("split_heads", "merge_heads", "split", "concat")
# Rounds of samples, of which each is several runs of a whole model.
TAPPED_ROUNDS = 2

Taps = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """tap: the first one outside its budget. function: of the vocabulary, that made it."""

    tap: str
    function: str
    judgement: Judgement


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared, in order, up to the difference if there is one.

    skipped: the taps that the candidate does not show. stable: bool [B, T], the tokens that were not left out.
    """

    difference: Difference | None
    compared: tuple[str, ...]
    skipped: tuple[str, ...]
    stable: Array

    @property
    def unstable(self) -> float:
        """The share of tokens that were left out."""
        return 1 - float(self.stable.mean())

    def record(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        found = self.difference
        known = {} if found is None else found.judgement.record()
        return {
            "compared": list(self.compared),
            "skipped": list(self.skipped),
            "unstable": self.unstable,
            "difference": None if found is None else {"tap": found.tap, "function": found.function, **known},
        }


class Attributed(Traced):
    """Traces, and notes which function of the vocabulary made each tap."""

    def __init__(self, inner: Ops) -> None:
        super().__init__(inner)
        self.functions: dict[str, str] = {}
        self._makers: dict[int, tuple[Any, str]] = {}

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        result = super().call(name, *values, **options)
        maker = self._maker(values[0]) if name in MOVES else name
        for each in result if isinstance(result, tuple) else (result,):
            self._makers[id(each)] = (each, maker)  # held, so that no other value gets its id
        return result

    def tap(self, name: str, value: Any) -> Any:
        tapped = super().tap(name, value)
        self.functions[next(reversed(self.values))] = self._maker(value)
        return tapped

    def _maker(self, value: Any) -> str:
        return self._makers.get(id(value), (None, ""))[1]


class Wired:
    """A model under the readings of the judge: `wired(reading)` gives all its taps."""

    def __init__(self, model: Model, tokens: Array) -> None:
        self._blueprint: Blueprint = model.blueprint
        self._stored = {name: np.asarray(model.weights[name]) for name in model.blueprint.parameters() if _used(name)}
        self._tokens = tokens
        self.functions: dict[str, str] = {}

    def __call__(self, reading: Exact) -> tuple[Array, ...]:
        """Taps in order of computation, widened; `functions` then says who made each."""
        weights = {name: reading.cast(reading.disturb(array.astype(reading.wide))) for name, array in self._stored.items()}
        traced = Attributed(reading.ops())
        order = token_order(np.ones_like(self._tokens))
        self._blueprint.forward(
            traced,
            weights,
            self._tokens,
            positions=order,
            q_order=order,
            k_order=order,
            states=None,
            angle_dtype=reading.angle_format,
        )
        self.functions = traced.functions
        return tuple(as_choice(traced.functions[name], reading.widen(value)) for name, value in traced.values.items())


@dataclass(frozen=True)
class Expected:
    """The taps of a model on some tokens, and what a correct implementation's may be."""

    names: tuple[str, ...]
    functions: Mapping[str, str]
    truths: tuple[Array, ...]
    pairs: list[Pair]
    dtype: str

    def expectation(self, index: int, stable: Array) -> Expectation:
        """Of tap number `index`, at the tokens [B, T] that are `stable` alone."""
        truth = self.truths[index]
        if not is_float(truth.dtype):
            return Expectation(at_tokens(truth, stable), None)
        errors = (at_tokens(sample[index], stable) - at_tokens(reference[index], stable) for sample, reference in self.pairs)
        kept = at_tokens(truth, stable)
        return Expectation(kept, noise_of(kept, self.dtype, errors))

    def stable(self, index: int, before: Array) -> Array:
        """The tokens of `before` at which every reading chooses as the specification does, and none before them differs."""
        if is_float(self.truths[index].dtype):
            return before
        alike = [np.all(sample[index] == truth[index], axis=-1) for sample, truth in self.pairs]
        stable: Array = before & np.logical_and.accumulate(np.logical_and.reduce(alike), axis=1)
        return stable


def expected_taps(model: Model, tokens: Array, dtype: str) -> Expected:
    """The taps of `model` on `tokens`, with samples of their noise at `dtype`."""
    wired = Wired(model, tokens)
    with np.errstate(all="ignore"):
        truths = wired(Exact(dtype))
        functions = dict(wired.functions)
        pairs = [pair for number in range(TAPPED_ROUNDS) for pair in samples(wired, dtype, truths, number)]
    return Expected(tuple(functions), functions, truths, pairs, dtype)


def compare(expected: Expected, taps: Taps) -> Comparison:
    """The first of `taps` that is outside its budget. ValueError where none of them is a tap of the model.

    Where no token is left the comparison ends.
    """
    shown = [name for name in expected.names if name in taps]
    if not shown:
        raise ValueError(f"no tap of the model is among the {len(taps)} tensors, such as {', '.join(list(taps)[:3])}")
    skipped = tuple(name for name in expected.names if name not in taps)
    stable = np.ones(expected.truths[expected.names.index("logits")].shape[:2], bool)
    agreed: list[str] = []
    for index, name in enumerate(expected.names):
        stable = expected.stable(index, stable)
        if not stable.any():
            break
        if name not in taps:
            continue
        judgement = _judged(expected, index, taps[name], stable)
        if judgement.verdict != "pass":
            found = Difference(tap=name, function=expected.functions[name], judgement=judgement)
            return Comparison(difference=found, compared=(*agreed, name), skipped=skipped, stable=stable)
        agreed.append(name)
    return Comparison(difference=None, compared=tuple(agreed), skipped=skipped, stable=stable)


def as_choice(function: str, value: Array) -> Array:
    """The keys that `key_selection` shows, 0/1 [B, T, S], in place of its bias of 0 and -inf; other taps as they are."""
    if function != "key_selection":
        return value
    chosen: Array = np.isfinite(value).astype(np.int64).reshape(value.shape[0], *value.shape[2:])
    return chosen


def _judged(expected: Expected, index: int, value: Any, stable: Array) -> Judgement:
    truth = expected.truths[index]
    array = as_choice(expected.functions[expected.names[index]], np.asarray(value))
    if array.shape != truth.shape and array.shape[:2] == truth.shape[:2] and array.size == truth.size:
        array = array.reshape(truth.shape)  # heads in one axis or in two
    if array.shape != truth.shape:
        return judge_one(array, Expectation(truth, None), expected.dtype)
    kept = on_floats(lambda one: one.astype(truth.dtype), array)
    axes = ("BT" if stable.all() else "N") + {3: "D", 4: "HK"}.get(truth.ndim, "")
    return judge_one(at_tokens(kept, stable), expected.expectation(index, stable), expected.dtype, axes=axes, wider=True)


def at_tokens(array: Array, stable: Array) -> Array:
    """The entries of stable tokens [N, ...]; the array itself where all are stable, or it has no tokens."""
    if stable.all() or array.shape[:2] != stable.shape:
        return array
    kept: Array = array[stable]
    return kept


def _used(name: str) -> bool:
    """Whether the model itself uses a parameter: its modules for multi-token prediction show no taps here."""
    return not name.startswith("multi_token.")
