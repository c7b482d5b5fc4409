"""A backend under test, whatever it is: a module, an object or a mapping with functions named as those of the specification.

The protocol, all of it optional:

    rms_norm(x, weight, *, eps), ...   the functions of `refimpl.layers.VOCABULARY`, on NumPy arrays in the tested dtype.
                                       Arrays come by position, options by keyword, and options at their default are not
                                       passed. Raise NotImplementedError(reason) for what is not supported.
    load(checkpoint_dir)               -> callable(tokens int64 [B, T]) -> logits [B, T, V] or (logits, cache); then also
                                       callable(tokens, cache), and attention_mask= for padding
    name, version                      strings for the report
    dtypes                             the dtypes that it claims, ("float32",) by default
    unavailable()                      a sentence that says why it cannot run here, or None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, isclass, signature
from pathlib import Path
from typing import Any

import numpy as np

from conformance.judge import failure
from conformance.readings import Exact
from conformance.verdict import Judgement
from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS, Array

DEFAULT_DTYPES = ("float32",)


class BackendError(ValueError):
    """A backend that cannot be loaded, or cannot run here: one sentence."""


class Unsupported(Exception):
    """The backend says that it does not do this."""


class Misbehaved(Exception):
    """A call went wrong in a way that is a verdict of its own."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.sentence)
        self.judgement = judgement


class Backend:
    """Calls the functions of a backend by the protocol and tells apart what can go wrong."""

    def __init__(self, functions: Any, *, name: str = "") -> None:
        self._source = functions
        unavailable = self._attribute("unavailable")
        if callable(unavailable) and (reason := unavailable()):
            raise BackendError(str(reason))
        self.name = str(self._attribute("name") or name or _own_name(functions))
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

    @property
    def loads_models(self) -> bool:
        """Whether it runs whole checkpoints."""
        return callable(self._load)

    def call(self, function: str, *values: Any, **options: Any) -> Any:
        """The backend's result for values in the tested dtype. Raises Unsupported or Misbehaved, nothing else."""
        found = self.functions[function]
        defaults = _defaults(VOCABULARY[function])
        options = {key: value for key, value in options.items() if not _is_default(value, defaults.get(key, Parameter.empty))}
        _bind(found, values, options)
        names = [*signature(VOCABULARY[function]).parameters]
        return guarded(found, values, options, names)

    def load(self, directory: Path) -> Callable[..., Any]:
        """The callable that the backend makes of a checkpoint directory. Raises Unsupported or Misbehaved."""
        assert callable(self._load)
        engine = guarded(self._load, (directory,), {}, ["checkpoint_dir"])
        if not callable(engine):
            raise Misbehaved(_error(f"load returned a {type(engine).__name__}, which cannot be called"))
        return engine

    def _attribute(self, name: str) -> Any:
        if isinstance(self._source, Mapping):
            return self._source.get(name)
        return getattr(self._source, name, None)


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
        cast = self.cast_angles if name == "rope_cos_sin" else self.cast
        result = self.backend.call(name, *map(cast, values), **{key: cast(value) for key, value in options.items()})
        arrays = result if isinstance(result, tuple) else (result,)
        for array in arrays:
            if not isinstance(array, np.ndarray):
                raise Misbehaved(failure("dtype", f"{name} returned a {type(array).__name__} but needs a NumPy array"))
        return self.widen(result)


def guarded(function: Callable[..., Any], values: tuple[Any, ...], options: dict[str, Any], names: list[str]) -> Any:
    """`function(*values, **options)`, where raising and writing into the inputs are noticed."""
    before = [_bits(value) for value in (*values, *options.values())]
    try:
        result = function(*values, **options)
    except NotImplementedError as error:
        raise Unsupported(_first_line(error) or "no reason given") from error
    except (Exception, SystemExit) as error:
        raise Misbehaved(_error(f"raised {type(error).__name__}: {_first_line(error)}")) from error
    after = [_bits(value) for value in (*values, *options.values())]
    for name, old, new in zip([*names[: len(values)], *options], before, after, strict=True):
        if old != new:
            raise Misbehaved(failure("mutation", f"wrote into its argument {name!r}"))
    return result


def attempt(judge: Callable[[], Judgement]) -> Judgement:
    """The judgement, or what the backend's refusal or failure amounts to."""
    try:
        return judge()
    except Unsupported as refusal:
        return Judgement(verdict="unsupported", sentence=str(refusal))
    except Misbehaved as failing:
        return failing.judgement


def _error(sentence: str) -> Judgement:
    return Judgement(verdict="error", sentence=sentence)


def _bind(function: Callable[..., Any], values: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        form = signature(function)
    except (TypeError, ValueError):  # compiled functions may have none
        return
    try:
        form.bind(*values, **options)
    except TypeError as error:
        raise Unsupported(f"its signature {form}: {error}") from None


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in signature(function).parameters.items()}


def _is_default(value: Any, default: Any) -> bool:
    return not isinstance(value, np.ndarray) and default is not Parameter.empty and value == default


def _bits(value: Any) -> bytes | None:
    return _array_bits(value) if isinstance(value, np.ndarray) else None


def _array_bits(array: Array) -> bytes:
    return repr((array.shape, array.dtype)).encode() + array.tobytes()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""


def _dtypes(claimed: Any, name: str) -> tuple[str, ...]:
    if claimed is None:
        return DEFAULT_DTYPES
    found = tuple(map(str, claimed)) if not isinstance(claimed, str) else (claimed,)
    unknown = [dtype for dtype in found if dtype not in FORMATS]
    if unknown or not found:
        raise BackendError(f"{name}: dtypes is {claimed!r} but needs names among {', '.join(FORMATS)}")
    return found


def _own_name(functions: Any) -> str:
    if isinstance(functions, Mapping):
        return "mapping"
    return getattr(functions, "__name__", None) or type(functions).__name__


def as_backend(source: Any, *, name: str = "") -> Backend:
    """`source` as a `Backend`: one already, a class to instantiate, a module, an object or a mapping."""
    if isinstance(source, Backend):
        return source
    if isclass(source):
        source = source()
    return Backend(source, name=name)
