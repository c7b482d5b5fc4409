"""A mutant: a known way of being wrong, as faulty functions of the vocabulary or as a faulty model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.family import ALL_DTYPES
from conformance.mutants.reports import REPORTS
from refimpl.blocks import Rope
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import open_checkpoint
from refimpl.model import numpy_model
from refimpl.models import from_config
from refimpl.numerics import Array
from refimpl.ops import Replaced, Rounded
from refimpl.weights import StoredWeights, stored_blueprint

Function = Callable[..., Any]
Engine = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault; what it does not change is the specification.

    id: of the report of a real bug (`REPORTS`) where there is one. reports: further ones of the same fault.
    functions: faulty functions by their names in the vocabulary; they serve as a backend, and in a model through `Replaced`.
    config, blueprint, weights: the configuration, the wiring and a parameter (by its name) as a faulty loader has them; each
      leaves alone what it does not concern.
    call: `call(model, tokens, cache, attention_mask=...)` in place of the model's own.
    dtypes: the formats in which it exists.
    architectures: of the models that show it; of faulty functions none is named, as every model shows it that uses them so.
    """

    id: str
    says: str
    reports: tuple[str, ...] = ()
    functions: Mapping[str, Function] = field(default_factory=dict)
    config: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    blueprint: Callable[[Blueprint], Blueprint] | None = None
    weights: Callable[[str, Array], Array] | None = None
    call: Engine | None = None
    dtypes: tuple[str, ...] = ALL_DTYPES
    architectures: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What is faulty: a layer, the configuration, the wiring, the weights or the call."""
        places = {"layer": self.functions, "configuration": self.config, "wiring": self.blueprint, "weights": self.weights}
        return next((kind for kind, change in places.items() if change), "call")

    @property
    def bugs(self) -> tuple[str, ...]:
        """The reports of real bugs that are this fault."""
        return ((self.id,) if self.id in REPORTS else ()) + self.reports

    @property
    def links(self) -> tuple[str, ...]:
        """Where those bugs are told of."""
        return tuple(REPORTS[bug] for bug in self.bugs if REPORTS[bug])

    def load(self, directory: Path) -> Engine:
        """The model of a checkpoint directory with this fault, as a backend's `load`."""
        return load(directory, self)


def layer(id: str, function: str, faulty: Function, says: str, *reports: str, dtypes: tuple[str, ...] = ALL_DTYPES) -> Mutant:
    """A fault of one function of the vocabulary."""
    return Mutant(id=id, says=says, reports=reports, functions={function: faulty}, dtypes=dtypes)


def load(directory: Path, *mutants: Mutant) -> Engine:
    """The model of a checkpoint directory with all these faults; it rounds every step where the stored format is narrow."""
    checkpoint = open_checkpoint(directory)
    config = dict(checkpoint.config)
    stored = config.get("torch_dtype", "float32")
    narrow = stored in ("bfloat16", "float16")
    computing = "float32" if narrow else stored
    for mutant in mutants:
        config = config if mutant.config is None else mutant.config(config)
    plan = stored_blueprint(from_config(config), checkpoint)
    weights: Mapping[str, Any] = StoredWeights(plan, checkpoint, computing, stream=False)
    functions = {name: function for mutant in mutants for name, function in mutant.functions.items()}
    plan = with_ropes(plan, lambda rope: FaultyRope(**vars(rope), functions=functions))
    for mutant in mutants:
        plan = plan if mutant.blueprint is None else mutant.blueprint(plan)
        weights = weights if mutant.weights is None else MisreadWeights(weights, mutant.weights)
    model = numpy_model(plan, weights, computing)
    replaced = Replaced(model.ops, functions)
    engine: Engine = model.with_ops(Rounded(replaced, stored) if narrow else replaced)
    for mutant in mutants:
        engine = engine if mutant.call is None else partial(mutant.call, engine)
    return engine


def with_ropes(plan: Blueprint, change: Callable[[Rope], Rope]) -> Blueprint:
    """`plan` with the rotations that `change` makes of those of its layers."""

    def changed(block: Any) -> Any:
        own = block if block is None or block.rope is None else replace(block, rope=change(block.rope))
        return replace(own, indexer=changed(own.indexer)) if getattr(own, "indexer", None) is not None else own

    layers = tuple(replace(one, mixer=changed(one.mixer)) if hasattr(one.mixer, "rope") else one for one in plan.layers)
    return replace(plan, layers=layers)


@dataclass(frozen=True, kw_only=True)
class FaultyRope(Rope):
    """A rotation whose frequencies come from faulty functions where there are any."""

    functions: Mapping[str, Function] = field(compare=False)

    def frequencies(self, dtype: npt.DTypeLike) -> Array:
        name, options = self.rule()
        if name not in self.functions:
            return super().frequencies(dtype)
        return np.asarray(self.functions[name](self.rotary_dim, theta=self.theta, **options)).astype(dtype)


class MisreadWeights(Mapping[str, Any]):
    """Parameters of which some are changed when they are read."""

    def __init__(self, weights: Mapping[str, Any], change: Callable[[str, Array], Array]) -> None:
        self._weights, self._change = weights, change

    def __getitem__(self, name: str) -> Any:
        return self._change(name, self._weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
