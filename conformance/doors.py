"""The doors through which a backend comes in: by object, built-in name, entry point, file, module, or without any Python."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from conformance.backend import Backend, BackendError, as_backend
from conformance.backends import BUILT_IN
from conformance.calls import contained, described
from conformance.vectors.answers import AnsweredBackend
from conformance.vectors.program import ProgramBackend

GROUP = "refimpl.backends"
# Prefixes of backends that are no Python.
FILES: dict[str, Callable[[str], Backend]] = {"exec": ProgramBackend, "answers": AnsweredBackend}


def load_backend(backend: Any) -> Backend:
    """The backend that `backend` means.

    An object, a module or a mapping with the functions; or a string, tried in this order: a program ("exec:./runner"), a
    directory of answers ("answers:DIR"), a built-in name ("torch:cuda"), an entry point of the group refimpl.backends, a file
    ("path/to/adapter.py", "path/to/adapter.py:attribute"), a module ("package.module", "package.module:attribute").
    BackendError, one sentence, when there is none or it cannot run here.
    """
    if not isinstance(backend, str):
        return as_backend(backend)
    if backend.endswith(":") and backend[:-1] not in FILES:
        raise BackendError(f"{backend!r}: the attribute after the colon is missing")
    found = _by_name(backend)
    found.reference = found.recipe = backend
    return found


def made_again(recipe: Any, name: str) -> Backend:
    """The backend in another process, made of what pickle can carry; of a name once a process."""
    if isinstance(recipe, str):
        if recipe not in _MADE:
            _MADE[recipe] = load_backend(recipe)
        return _MADE[recipe]
    return as_backend(recipe, name=name)


_MADE: dict[str, Backend] = {}


def _by_name(backend: str) -> Backend:
    kind, colon, rest = backend.partition(":")
    if colon and kind in FILES:
        return FILES[kind](rest)
    if backend in BUILT_IN:
        return _from_module(BUILT_IN[backend], name=backend)
    installed = _installed()
    if backend in installed:
        return as_backend(_guarded_import(installed[backend].load, backend), name=backend)
    path, _, attribute = backend.partition(":")
    if path.endswith(".py"):
        return as_backend(_attribute(_module_of_file(path), attribute, backend), name=Path(path).stem)
    return _from_module(backend, name=backend)


def backend_names() -> list[str]:
    """The names that `load_backend` knows: built-in ones and installed entry points."""
    return sorted({*BUILT_IN, *_installed()})


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _from_module(reference: str, *, name: str) -> Backend:
    module_name, _, attribute = reference.partition(":")
    if not _importable(module_name):
        near = get_close_matches(name, backend_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(backend_names())}, a path.py or a module"
        raise BackendError(f"no backend {name!r}; {hint}")
    if not attribute and module_name.partition(".")[0] in sys.stdlib_module_names:
        raise BackendError(f"{name}: a module of Python's standard library, not a backend")
    module = _guarded_import(lambda: importlib.import_module(module_name), name)
    return as_backend(_attribute(module, attribute, name), name=name)


def _importable(module_name: str) -> bool:
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


def _module_of_file(path: str) -> ModuleType:
    file = Path(path)
    if not file.is_file():
        raise BackendError(f"{path}: no such file")
    name = f"refimpl_backend_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up there
    loader = spec.loader
    _guarded_import(lambda: loader.exec_module(module), path)
    return module


def _guarded_import(load: Any, name: str) -> Any:
    try:
        with contained():
            return load()
    except (KeyboardInterrupt, BackendError):
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise BackendError(f"{name}: needs the package {error.name!r}, which is not installed") from error
        raise BackendError(f"{name}: cannot be imported ({described(error)})") from error


def _attribute(module: Any, attribute: str, name: str) -> Any:
    if not attribute:
        return module
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise BackendError(f"{name}: the module has no attribute {attribute!r}") from None
