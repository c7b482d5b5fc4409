"""A backend under test, whatever it is: a module, an object or a mapping with functions named as those of the specification.

The protocol, all of it optional:

    rms_norm(x, weight, *, eps), ...   the functions of `refimpl.layers.VOCABULARY`, on NumPy arrays in the tested dtype.
                                       What releases keep in float32 comes and goes in that where the tested dtype is narrower:
                                       frequencies, correction biases, decays, states (`refimpl.layers.precision`).
                                       Arrays come by position, options by keyword, and options at their default are not
                                       passed. Raise NotImplementedError(reason) for what is not supported.
    load(checkpoint_dir)               -> callable(tokens int64 [B, T]) -> logits [B, T, V] or (logits, cache); then also
                                       callable(tokens, cache), and attention_mask= for padding
    trace(checkpoint_dir, tokens)      -> {tap: array}: the intermediate values that it can show, by the names of
                                       `refimpl.Model.trace`; for `refimpl diff`
    name, version                      strings for the report
    dtypes                             the dtypes that it claims, ("float32",) by default
    unavailable()                      a sentence that says why it cannot run here, or None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, isclass, signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from conformance.calls import Misbehaved, Unsupported, contained, described, error_of, guarded
from conformance.readings import Exact
from conformance.results import check_result
from refimpl.layers import VOCABULARY
from refimpl.layers.precision import converted
from refimpl.layers.signatures import signature_of
from refimpl.numerics import FORMATS, Array

DEFAULT_DTYPES = ("float32",)


class BackendError(ValueError):
    """A backend that cannot be loaded, or cannot run here: one sentence."""


class Backend:
    """Calls the functions of a backend by the protocol and tells apart what can go wrong."""

    def __init__(self, functions: Any, *, name: str = "") -> None:
        self._source = functions
        self.recipe = functions  # what `load_backend` makes it of in another process, which it knows better too
        self._given_name = name or _own_name(functions)
        unavailable = self._attribute("unavailable")
        if callable(unavailable) and (reason := outside(self._given_name, "unavailable()", unavailable)):
            raise BackendError(_one_line(reason))
        own_name = self._attribute("name")
        self.name = own_name if isinstance(own_name, str) and own_name else self._given_name
        self.reference = self.name  # what to write on a command line; `load_backend` knows better
        version = self._attribute("version")
        self.version = str(version) if isinstance(version, str) else ""
        self.dtypes = _dtypes(self._attribute("dtypes"), self.name)
        self.functions = {function: found for function in VOCABULARY if callable(found := self._attribute(function))}
        self._load = self._attribute("load")
        if not self.functions and not self.loads_models:
            raise BackendError(
                f"{self.name}: has no function of the vocabulary (such as rms_norm or attention) and no load(checkpoint_dir)"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        from conformance.doors import made_again

        return made_again, (self.recipe.__name__ if isinstance(self.recipe, ModuleType) else self.recipe, self._given_name)

    @property
    def loads_models(self) -> bool:
        """Whether it runs whole checkpoints."""
        return callable(self._load)

    def call(self, function: str, *values: Any, **options: Any) -> Any:
        """The backend's result for values in the tested dtype. Raises Unsupported or Misbehaved, nothing else."""
        found = self.functions[function]
        parameters = signature_of(function).parameters
        options = {key: value for key, value in options.items() if not _is_default(value, parameters.get(key))}
        needed = {p.name for p in parameters.values() if p.kind is Parameter.KEYWORD_ONLY and p.default is Parameter.empty}
        _bind(found, values, options, needed)
        result = guarded(found, values, options, [*parameters])
        check_result(function, result)
        return result

    def load(self, directory: Path) -> Callable[..., Any]:
        """The callable that the backend makes of a checkpoint directory. Raises Unsupported or Misbehaved."""
        assert callable(self._load)
        engine = guarded(self._load, (directory,), {}, ["checkpoint_dir"])
        if not callable(engine):
            raise Misbehaved(error_of(f"load returned a {type(engine).__name__}, which cannot be called"))
        return engine

    def trace(self, directory: Path, tokens: Array) -> Mapping[str, Array]:
        """The taps of the model of a checkpoint directory on tokens [B, T]. BackendError where it shows none."""
        trace = self._attribute("trace")
        if not callable(trace):
            raise BackendError(f"{self.name}: shows no taps; it needs trace(checkpoint_dir, tokens), which gives them by name")
        try:
            found = guarded(trace, (directory, tokens.copy()), {}, ["checkpoint_dir", "tokens"])
        except Unsupported as refusal:
            raise BackendError(f"{self.name}: does not support this checkpoint: {refusal}") from None
        except Misbehaved as failing:
            raise BackendError(f"{self.name}: trace {failing.judgement.sentence}") from None
        if not isinstance(found, Mapping) or not all(isinstance(value, np.ndarray) for value in found.values()):
            raise BackendError(f"{self.name}: trace returned a {type(found).__name__} but needs arrays by the names of taps")
        return found

    def _attribute(self, name: str) -> Any:
        source = self._source
        if isinstance(source, Mapping):
            return source.get(name)
        return outside(self._given_name, f"its {name}", lambda: getattr(source, name, None))


class Candidate(Exact):
    """The reading in which a backend's own functions compute, in the tested dtype."""

    def __init__(self, backend: Backend, dtype: str) -> None:
        super().__init__(dtype)
        self.backend = backend
        self.angle_format = FORMATS["float64" if dtype == "float64" else "float32"]

    def cast(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype == self.wide:
            return value.astype(FORMATS[self.dtype])
        return value

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        values, options = converted(name, values, options, narrow=self.cast, wide=self.cast_wide)
        return self.widen(self.backend.call(name, *values, **options))


def _bind(function: Callable[..., Any], values: tuple[Any, ...], options: dict[str, Any], required: set[str]) -> None:
    """Unsupported when the function does not take an option, Misbehaved when it lacks a keyword that every call has."""
    try:
        form = signature(function)
    except Exception:  # compiled functions may have none
        return
    try:
        form.bind(*values, **options)
    except TypeError as error:
        lacking = required - set(form.parameters)
        takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in form.parameters.values())
        if lacking and not takes_any:
            raise Misbehaved(error_of(f"its signature {form} has no {', '.join(sorted(lacking))}")) from None
        raise Unsupported(f"its signature {form}: {error}") from None


def _is_default(value: Any, parameter: Parameter | None) -> bool:
    if parameter is None or parameter.default is Parameter.empty or isinstance(value, np.ndarray):
        return False
    return bool(value == parameter.default)


def outside(name: str, what: str, ask: Callable[[], Any]) -> Any:
    """What the code of a backend answers while it is being loaded. BackendError when it raises or exits."""
    try:
        with contained():
            return ask()
    except (KeyboardInterrupt, BackendError):
        raise
    except BaseException as error:
        raise BackendError(f"{name}: {what} raised {described(error)}") from error


def _dtypes(claimed: Any, name: str) -> tuple[str, ...]:
    if claimed is None:
        return DEFAULT_DTYPES
    found = (claimed,) if isinstance(claimed, str) else tuple(claimed) if isinstance(claimed, (tuple, list)) else ()
    if not found or any(dtype not in tuple(FORMATS) for dtype in found):
        raise BackendError(f"{name}: dtypes is {_one_line(repr(claimed))} but needs names among {', '.join(FORMATS)}")
    return found


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def _own_name(functions: Any) -> str:
    if isinstance(functions, Mapping):
        return "mapping"
    return functions.__name__ if isinstance(functions, ModuleType) or isclass(functions) else type(functions).__name__


def as_backend(source: Any, *, name: str = "") -> Backend:
    """`source` as a `Backend`: one already, a class to instantiate, a module, an object or a mapping."""
    if isinstance(source, Backend):
        return source
    if isclass(source):
        source = outside(name or source.__name__, "making an instance", source)
    return Backend(source, name=name)
