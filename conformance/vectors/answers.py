"""The door `answers:`: a directory of vectors in which another program has written its answers.

Beside a case.json, out.safetensors is the answer; unsupported.txt says that there is none, and why; with neither the case is
not covered. A question of the run is found by what is asked, so that drawn cases are found as well. An about.json in the
directory says whose answers they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conformance.backend import BackendError
from conformance.calls import Misbehaved, error_of
from conformance.case import NOT_COVERED
from conformance.vectors.door import About, FileBackend, read_about, refused
from conformance.vectors.question import FORMAT, OUT, Question, read_tensors
from refimpl import SPEC_VERSION
from refimpl.checkpoint.errors import CheckpointError
from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS, Array

INDEX, ABOUT, REFUSED = "vectors.json", "about.json", "unsupported.txt"


class AnsweredBackend(FileBackend):
    """The answers in a directory, by question."""

    def __init__(self, directory: str) -> None:
        root, source = Path(directory), f"answers:{directory}"
        if not directory:
            raise BackendError(f"{source} needs a directory after the colon")
        index = _index(root, source)
        self._places: dict[str, Path] = {}
        answered = [case for case in index["cases"] if self._find(root / case["path"], case["digest"])]
        if not answered:
            raise BackendError(f"{source}: holds {len(index['cases'])} cases, but none has an {OUT} beside it")
        about = root / ABOUT
        said = read_about(about.read_text(encoding="utf-8"), str(about)) if about.is_file() else About()
        found = About(
            name=said.name or root.resolve().name,
            version=said.version,
            dtypes=tuple(dtype for dtype in FORMATS if any(case["dtype"] == dtype for case in answered)) or ("float32",),
            layers=tuple(layer for layer in VOCABULARY if any(case["function"] == layer for case in answered)),
            models=any(case["level"] == "model" for case in answered),
        )
        super().__init__(found, name=source)

    def answer(self, question: Question) -> Mapping[str, Array]:
        place = self._places.get(question.digest())
        if place is None:
            raise Misbehaved(NOT_COVERED)
        if not (place / OUT).is_file():
            raise refused((place / REFUSED).read_text(encoding="utf-8", errors="replace"))
        try:
            return read_tensors(place / OUT)
        except CheckpointError as error:
            raise Misbehaved(error_of(f"the answer is not a safetensors file: {error}")) from None

    def _find(self, place: Path, digest: str) -> bool:
        """Whether a case is answered; a refusal is kept as well, but a layer of which there is nothing else is not offered."""
        answered = (place / OUT).is_file()
        if answered or (place / REFUSED).is_file():
            self._places[digest] = place
        return answered


def _index(root: Path, source: str) -> dict[str, Any]:
    """What vectors.json says. BackendError when there is none, or of another format or specification."""
    path = root / INDEX
    if not root.is_dir():
        raise BackendError(f"{source}: no such directory")
    if not path.is_file():
        raise BackendError(f"{source}: holds no {INDEX}; `refimpl golden vectors DIR` writes such a directory")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        versions = (index["format"], index["spec_version"])
        well_formed = all({"path", "digest", "dtype", "function", "level"} <= case.keys() for case in index["cases"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackendError(f"{path}: is not the index of a directory of vectors") from None
    if versions != (FORMAT, SPEC_VERSION) or not well_formed:
        raise BackendError(
            f"{path}: is of format {versions[0]} and specification {versions[1]}, but this suite reads format {FORMAT} of "
            f"{SPEC_VERSION}"
        )
    return dict(index)
