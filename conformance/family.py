"""A family: all cases of one function, made from parameters by one recipe, whether hand-picked or drawn."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from typing import Any
from zlib import crc32

import numpy as np

from conformance.backend import Backend, Candidate
from conformance.calls import attempt, first_line
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.judge import Expectation, expect, judge
from conformance.memory import without_memory
from conformance.readings import Exact, computing_format, on_floats
from conformance.results import LARGEST
from conformance.verdict import Judgement
from refimpl.layers import VOCABULARY
from refimpl.layers.precision import WIDE, converted
from refimpl.numerics import FORMATS, Array, unit_roundoff

ALL_DTYPES = ("float64", "float32", "bfloat16", "float16")
WIDE_DTYPES = ("float64", "float32")
INTEGERS = ("int64",)
# Whole numbers among the parameters that are no sizes of arrays.
NOT_SIZES = ("farthest", "original_max_position_embeddings", "window", "chunk")


class Values(np.random.Generator):
    """A seeded generator that knows in which format its numbers will be stored."""

    def __init__(self, seed: int, salt: str, dtype: str) -> None:
        super().__init__(np.random.PCG64([seed, crc32(salt.encode())]))
        self.format = FORMATS.get(dtype)
        self.roundoff = unit_roundoff(dtype) if dtype in FORMATS else 0.0


@dataclass(frozen=True)
class Inputs:
    """Positional arguments by name, in order, and keyword options; both may hold arrays and plain numbers."""

    arguments: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Edge:
    """A hand-picked case: its place in the id, the rules it is about, and the parameters that make it."""

    variant: str
    phase: str
    size: str
    rules: tuple[str, ...]
    parameters: Mapping[str, Any]


def edge(variant: str, phase: str, size: str, *rules: str, **parameters: Any) -> Edge:
    """`edge("window", "decode", "w128p17", "R3", window=128, ...)`."""
    return Edge(variant, phase, size, rules, parameters)


@dataclass(frozen=True, kw_only=True)
class Family:
    """build(values, **parameters) makes the inputs; axes are the dimension letters of each result.

    wider: formats wider than the tested one are right as well. exact: nothing is computed, so nothing may differ.
    chooses: where the first result is a choice by the first argument, what favours that of a candidate among equal scores
      (`conformance.choice`).
    stored: arrays are in formats of storage, which stay what they are whatever the tested one, that of the result.
    """

    function: str
    build: Callable[..., Inputs]
    axes: tuple[str, ...]
    edges: tuple[Edge, ...]
    dtypes: tuple[str, ...] = ALL_DTYPES
    wider: bool = False
    exact: bool = False
    chooses: Callable[[Array, Any], Array] | None = None
    stored: bool = False

    def cases(self, dtype: str) -> list[LayerCase]:
        """The hand-picked cases at one dtype."""
        return [self.case(one, dtype) for one in self.edges]

    def case(self, one: Edge, dtype: str, *, seed: int = 0) -> LayerCase:
        """A hand-picked case; another seed gives other values of the same meaning."""
        case_id = f"{self.function}/{one.variant}-{one.phase}-{TOKENS[dtype]}-{one.size}"
        return LayerCase(
            id=case_id,
            level="layer",
            function=self.function,
            dtype=dtype,
            rules=one.rules,
            family=self,
            parameters=one.parameters,
            seed=seed,
            salt=f"{self.function}/{one.variant}-{one.phase}-{one.size}",
        )

    def drawn(self, parameters: Mapping[str, Any], seed: int, dtype: str) -> LayerCase:
        """The case of drawn parameters, whose id spells them out."""
        defaults = {name: one.default for name, one in signature(self.build).parameters.items()}
        spelled = {name: value for name, value in parameters.items() if value != defaults.get(name)}
        inside = ",".join(f"{name}={value!r}" for name, value in {**spelled, "seed": seed}.items())
        return LayerCase(
            id=f"{self.function}/drawn[{inside}]-{TOKENS[dtype]}",
            level="layer",
            function=self.function,
            dtype=dtype,
            family=self,
            parameters=spelled,
            seed=seed,
            salt=f"{self.function}/drawn",
        )

    def parse(self, case_id: str) -> LayerCase | None:
        """The drawn case of an id, None when it is not one."""
        found = re.fullmatch(rf"{self.function}/drawn\[(.*)\]-(\w+)", case_id)
        dtype = next((name for name in self.dtypes if found and TOKENS[name] == found.group(2)), None)
        if not found or dtype is None:
            return None
        try:
            parameters = _read(found.group(1))
            seed = parameters.pop("seed", None)
            if type(seed) is not int or seed < 0:
                raise ValueError(f"seed is {seed!r} but needs an integer, 0 or more")
            signature(self.build).bind(None, **parameters)
            _check_sizes(parameters)
            case = self.drawn(parameters, seed, dtype)
            with np.errstate(all="ignore"):
                case.evaluate(Exact(dtype))
        except Exception as error:  # a spelled-out parameter may be anything, and so may what NumPy says of it
            reason = f"{error} is not among the choices" if isinstance(error, KeyError) else first_line(error)
            raise ValueError(f"case id {case_id!r} cannot be read: {reason or type(error).__name__}") from None
        return case


@dataclass(frozen=True, kw_only=True)
class LayerCase(Case):
    """A call of one function. `inputs`, `arrays` and `options` hold what the backend is given: floats in the tested dtype, but
    in float32 at least what models keep there (`refimpl.layers.precision`).
    """

    family: Family
    parameters: Mapping[str, Any]
    seed: int
    salt: str

    @cached_property
    def inputs(self) -> Inputs:
        values = Values(self.seed, self.salt, self.dtype)
        made = self.family.build(values, **self.parameters)
        return Inputs(
            {k: self._store(k, v) for k, v in made.arguments.items()}, {k: self._store(k, v) for k, v in made.options.items()}
        )

    @property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """All arrays by name: positional ones first, then those among the options."""
        everything = {**self.inputs.arguments, **self.inputs.options}
        return {name: value for name, value in everything.items() if isinstance(value, np.ndarray)}

    @property
    def options(self) -> dict[str, Any]:
        """The keyword options, arrays included."""
        return dict(self.inputs.options)

    def evaluate(self, reading: Exact, *, chosen: Any = None) -> tuple[Any, ...]:
        """The results of the function in a reading, widened; where scores are equal, `chosen` is chosen."""
        if self.family.stored:
            function = VOCABULARY[self.function]
            return as_tuple(reading.widen(function(*self.inputs.arguments.values(), **self.inputs.options)))

        def widened(value: Any) -> Any:
            return on_floats(lambda array: array.astype(reading.wide), value)

        def given(value: Any) -> Any:
            return reading.disturb(widened(value))

        def given_wide(value: Any) -> Any:
            return reading.disturb_wide(widened(value))

        scores, *others = self.inputs.arguments.values()
        if chosen is not None and self.family.chooses is not None:
            scores = self.family.chooses(scores.astype(reading.wide), chosen)
        arguments, options = converted(self.function, (scores, *others), self.inputs.options, narrow=given, wide=given_wide)
        return as_tuple(reading.call(self.function, *arguments, **options))

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        if self.function not in backend.functions:
            return NOT_COVERED

        def ask() -> tuple[Any, ...]:
            return as_tuple(self.ask(backend))

        judged = partial(self.judge_outputs, diagnose=self.id in workspace.diagnosed)

        # Searches have enough to do, and a backend of files has no process in which it could remember.
        if self.salt.endswith("/drawn") or type(backend) is not Backend:
            return attempt(lambda: judged(ask()))
        another = replace(self, seed=self.seed + 1)
        return attempt(lambda: without_memory(ask(), judged, ask, lambda: as_tuple(another.ask(backend))))

    def expected(self, outputs: tuple[Any, ...] | None = None) -> tuple[Expectation, ...]:
        """The truths, and what is allowed beside them; among equal scores those that `outputs` chose."""
        return expect(
            self.evaluate,
            self.dtype,
            exact=self.family.exact,
            wide=WIDE[self.function].results if self.function in WIDE else (),
            follow=self._following if self.family.chooses else None,
            outputs=outputs,
        )

    def _following(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.evaluate(Exact(self.dtype), chosen=outputs[0])

    def judge_outputs(self, outputs: tuple[Any, ...], *, diagnose: bool = False) -> Judgement:
        """The verdict on outputs, wherever they come from; `diagnose`: with the known bugs that wrong ones look like."""
        family = self.family
        expected = self.expected(outputs)
        judgement = judge(outputs, expected, self.dtype, axes=family.axes, wider=family.wider)
        if not diagnose or judgement.kind != "numeric":
            return judgement
        from conformance.diagnosis import layer_suspects  # mutants are made of cases

        return replace(judgement, suspects=layer_suspects(self, outputs, expected))

    def ask(self, backend: Backend) -> Any:
        """What the backend returns. Raises Unsupported or Misbehaved."""
        reading = Candidate(backend, self.dtype)

        def fresh(value: Any) -> Any:
            return value.copy() if isinstance(value, np.ndarray) else value

        options = {name: fresh(value) for name, value in self.inputs.options.items()}
        return reading.backend.call(self.function, *map(fresh, self.inputs.arguments.values()), **options)

    def _store(self, name: str, value: Any) -> Any:
        if self.dtype not in FORMATS or self.family.stored:
            return value
        wide = self.function in WIDE and name in WIDE[self.function].arguments
        dtype = FORMATS[computing_format(self.dtype) if wide else self.dtype]
        return on_floats(lambda array: array.astype(dtype), value)


def _read(spelled: str) -> dict[str, Any]:
    """`a=1,b='x'` as a dict. ValueError where it is anything else."""
    try:
        call = ast.parse(f"f({spelled})", mode="eval").body
        if isinstance(call, ast.Call) and not call.args and isinstance(call.func, ast.Name):
            return {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    except (SyntaxError, ValueError):
        pass
    raise ValueError("between the brackets it needs name=value, joined by commas")


def _check_sizes(parameters: Mapping[str, Any]) -> None:
    """ValueError for sizes below those of any drawn case, or so far above that their arrays might not fit into memory."""
    product = 1
    for name, value in parameters.items():
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is not int:
                continue
            if size < isinstance(value, tuple):
                raise ValueError(f"{name} is {value!r}, too small")
            product *= 1 if name in NOT_SIZES else max(size, 1)
    if product > LARGEST:
        raise ValueError(f"its arrays would have {product} entries or more, too many")


def as_tuple(result: Any) -> tuple[Any, ...]:
    """Several results as they are, a single one as a tuple of one."""
    return result if isinstance(result, tuple) else (result,)
