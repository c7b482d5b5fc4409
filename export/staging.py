"""Files that take their places together, once all of them are written and found good."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from export.errors import ExportError

PREVIOUS = "previous"


def data_file(output: Path) -> Path:
    """Where the copied weights of a graph lie."""
    return output.with_name(f"{output.name}.data")


@contextmanager
def staged(path: Path, *, beside: bool) -> Iterator[Path]:
    """Where to write the graph that becomes `path`, and its data file, when the block ends well.

    When it does not end well, what was at `path` is untouched and nothing new stays. The graph may be run from where it is
    written: with `beside` it lies in the directory of `path`, where it finds the files of a checkpoint; otherwise in a
    directory of its own, under the final names.
    ExportError for files that cannot be written.
    """
    try:
        for file in (path,) if beside else (path, data_file(path)):
            if file.is_dir():
                raise ExportError(f"{file}: cannot be written (Is a directory)")
        with _graph_beside(path) if beside else _graph_apart(path) as graph:
            yield graph
            _publish(graph, path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def _graph_beside(path: Path) -> Iterator[Path]:
    graph = path.with_name(f".{uuid4().hex}.onnx")
    try:
        yield graph
    finally:
        graph.unlink(missing_ok=True)


@contextmanager
def _graph_apart(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / path.name


def _publish(graph: Path, path: Path) -> None:
    """Move the data, if there are any, then the graph: until that last step everything can be put back."""
    data, target = data_file(graph), data_file(path)
    previous = graph.with_name(PREVIOUS)
    if not data.exists():
        os.replace(graph, path)
        return
    try:
        with suppress(FileNotFoundError):
            os.replace(target, previous)
        os.replace(data, target)
        os.replace(graph, path)
    except BaseException:
        if graph.exists():
            _put_back(data, target, previous)
        raise


def _put_back(data: Path, target: Path, previous: Path) -> None:
    if not data.exists():
        target.unlink()
    if previous.exists():
        os.replace(previous, target)
