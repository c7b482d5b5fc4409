"""A variant: a legitimate implementation, which computes in another way than the specification and must be accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance.backend import Backend, as_backend
from conformance.computing import computing_in, rounding_every_step
from conformance.doors import load_backend
from conformance.family import ALL_DTYPES
from conformance.mutants.mutant import Mutant, load
from refimpl.blueprint import Blueprint

Function = Callable[..., Any]
float32 = computing_in(np.float32)
rounded = rounding_every_step


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of being right; what it does not change is the specification.

    functions: of the vocabulary, in the tested dtype like any backend's. together: functions that are right only in a wiring
    where each makes up for what another does.
    wiring: a block with its parts joined in another way. built_in: the name of a backend, in place of all these.
    dtypes: the formats that it is meant for.
    """

    id: str
    says: str
    functions: Mapping[str, Function] = field(default_factory=dict)
    together: Mapping[str, Function] = field(default_factory=dict)
    wiring: Callable[[Any], Any] | None = None
    built_in: str = ""
    dtypes: tuple[str, ...] = ALL_DTYPES

    @property
    def kind(self) -> str:
        """Where it differs: in layers, in the wiring of blocks, or everywhere."""
        return "backend" if self.built_in else "layer" if self.functions else "wiring"

    def backend(self) -> Backend:
        """What is judged as a layer. BackendError where a library is not installed."""
        if self.built_in:
            return load_backend(self.built_in)
        return as_backend(dict(self.functions) or {"load": self.load}, name=self.id)

    def inside(self) -> Backend:
        """What takes part in blocks."""
        functions = {**self.functions, **self.together}
        return as_backend(functions, name=self.id) if functions else load_backend(self.built_in or "numpy")

    def block(self, block: Any) -> Any:
        """A block in the wiring of this variant."""
        return block if self.wiring is None else self.wiring(block)

    def load(self, directory: Path) -> Callable[..., Any]:
        """The model of a checkpoint directory computed in this way, as a backend's `load`."""
        functions = {**self.functions, **self.together}
        return load(directory, Mutant(id=self.id, says=self.says, functions=functions, blueprint=self._blueprint))

    def _blueprint(self, plan: Blueprint) -> Blueprint:
        return replace(plan, layers=tuple(self.block(layer) for layer in plan.layers))


def layer(id: str, says: str, **functions: Function) -> Variant:
    """Other ways of computing some functions of the vocabulary."""
    return Variant(id=id, says=says, functions=functions)
