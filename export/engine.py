"""A checkpoint as an engine: exported into a file that does not outlive the loading, and run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from export.errors import ExportError
from export.model import export_onnx
from export.runtimes import Run
from export.session import Session
from export.source import open_source
from refimpl.storage import STORED_FLOATS


def checkpoint_session(checkpoint: str | os.PathLike[str], load: Callable[[Path], Run], *, taps: bool = False) -> Session:
    """`checkpoint`, a Hugging Face directory, as a callable, through its graph in the runtime that `load` opens.

    The graph computes in float64 where every weight that is not quantised is stored so, else in float32. The weights stay in
    place where they can, with the graph beside them until it is loaded; they are copied where they are links or nothing can be
    written. taps: every named intermediate value is an output (`Session.trace`).
    """
    with _temporary_export(Path(checkpoint), taps=taps) as path:
        return Session(path, load(path))


@contextmanager
def _temporary_export(directory: Path, *, taps: bool) -> Iterator[Path]:
    if _float_formats(directory) == {"F64"}:
        with _copied_export(directory, "float64", taps=taps) as path:
            yield path
        return
    beside = directory / f".{uuid4().hex}.onnx"
    try:
        export_onnx(directory, beside, taps=taps)
    except ExportError:
        with _copied_export(directory, "float32", taps=taps) as path:
            yield path
        return
    try:
        yield beside
    finally:
        beside.unlink()


def _float_formats(directory: Path) -> set[str]:
    """Those in which the weights that are not quantised are stored."""
    exported = open_source(directory)
    leaves = exported.layout.leaves(exported.blueprint.parameters())
    tensors = {} if exported.checkpoint is None else exported.checkpoint.tensors
    return {tensors[name].dtype for name, leaf in leaves.items() if leaf.formats == STORED_FLOATS}


@contextmanager
def _copied_export(directory: Path, dtype: str, *, taps: bool) -> Iterator[Path]:
    # A runtime may still hold the copied weights when the directory goes; some systems then refuse to remove them.
    with tempfile.TemporaryDirectory(prefix="refimpl-export-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(directory, path, weights="copy", dtype=dtype, taps=taps)
        yield path
