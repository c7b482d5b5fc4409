"""Writing a directory of vectors: a folder a case, named by its id, and an index.

    DIR/vectors.json
    DIR/layer/FUNCTION/REST_OF_ID/    case.json, in.safetensors, expected.safetensors
    DIR/model/ARCHITECTURE/REST_OF_ID/    the same, and taps.safetensors where the phase is a prefill
    DIR/checkpoints/NAME/    the checkpoints of the models

Blocks and laws are asked in terms of layers and models: they have no files of their own.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from conformance import select
from conformance.case import TOKENS, Case
from conformance.catalogue import cases
from conformance.family import LayerCase
from conformance.jobs import HYPOTHESIS_ELSEWHERE
from conformance.judge import Expectation
from conformance.search import Search
from conformance.vectors.expected import expected_records, expected_tensors
from conformance.vectors.model import model_vector
from conformance.vectors.question import EXPECTED, FORMAT, Question, write_json, write_tensors
from refimpl import SPEC_VERSION
from refimpl.numerics import FORMATS

LEVELS = ("layer", "model")
INDEX = "vectors.json"
LONGEST_NAME = 100

# Writes a case under a root at a place; where it did, None where it cannot.
Writer = Callable[[Path, Path, LayerCase, Question], Path | None]


def write_vectors(
    directory: str | os.PathLike[str],
    *,
    k: str | None = None,
    level: str | Sequence[str] | None = "layer",
    dtype: str | Sequence[str] | None = None,
    max_examples: int = 0,
    seed: int = 0,
    layer: Writer | None = None,
) -> dict[str, Any]:
    """Write the cases that `run` would select into a new directory, and return its index.

    level: layer, model or both (None). dtype: as in `run`, None for all. max_examples: drawn cases a layer and dtype.
    layer: what writes a layer's case, `layer_vector` when it is None; None from it counts as left out.
    ValueError, one sentence, when the directory is not empty or the selection is wrong or empty.
    """
    target = Path(directory)
    _check_free(target)
    chosen = _chosen(k, level, dtype, max_examples, seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: an interrupted run leaves nothing that looks like a whole directory.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        written, left_out = _write_all(made, _each(chosen), layer or layer_vector)
        index = {
            "format": FORMAT,
            "spec_version": SPEC_VERSION,
            "selection": {"k": k, "level": level, "dtype": dtype, "max_examples": max_examples, "seed": seed},
            "left_out": left_out,
            "cases": written,
        }
        write_json(made / INDEX, index)
        if target.exists():
            target.rmdir()
        made.rename(target)
    return index


def _check_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file, but vectors need a new or empty directory")
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: is not empty; vectors need a new or empty directory")


def _chosen(k: str | None, level: Any, dtype: Any, max_examples: int, seed: int) -> list[Case]:
    levels, matches = LEVELS if level is None else select.levels(level), select.expression(k)
    if not set(levels) <= set(LEVELS):
        raise ValueError(f"level is {level!r} but vectors are made of {' and '.join(LEVELS)} cases")
    dtypes = select.dtypes(dtype, tuple(FORMATS))
    everything = cases(dtypes=dtypes, levels=levels, max_examples=max_examples, seed=seed)
    chosen = [case for case in everything if matches(case.id)]
    if not chosen:
        raise ValueError("no layer or model case matches the selection; `refimpl list cases` names them")
    return chosen


def _each(chosen: list[Case]) -> Iterator[Case]:
    """The cases, with the drawn ones in place of a search."""
    with HYPOTHESIS_ELSEWHERE:
        for case in chosen:
            yield from case.drawn() if isinstance(case, Search) else [case]


def _write_all(root: Path, selected: Iterator[Case], layer: Writer) -> tuple[list[dict[str, Any]], int]:
    """The records of the index, and how many cases were left out."""
    found: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    left_out = 0
    with np.errstate(all="ignore"):
        for case in selected:
            place = Path(case.level) / case.function / _folder(case)
            digest, path = (
                _write_layer(root, place, case, layer, places)
                if isinstance(case, LayerCase)
                else model_vector(root, place, case)
            )
            if path is None:
                left_out += 1
            else:
                about = {"id": case.id, "level": case.level, "function": case.function, "dtype": case.dtype}
                found.append({**about, "path": path, "digest": digest})
    return found, left_out


def _write_layer(root: Path, place: Path, case: LayerCase, layer: Writer, places: dict[str, str]) -> tuple[str, str | None]:
    """The digest of a case and where it lies: where the same was asked before, if it was (frequencies in two formats)."""
    question = Question.of_layer(case.function, *case.inputs.arguments.values(), **case.inputs.options)
    digest = question.digest()
    if digest not in places:
        path = layer(root, place, case, replace(question, dtype=case.dtype))
        if path is None:
            return digest, None
        places[digest] = str(path)
    return digest, places[digest]


def _folder(case: Case) -> str:
    """The rest of an id as a name of a directory; of a drawn case what it needs to be told from others."""
    name = case.id.partition("/")[2]
    if re.fullmatch(r"[\w.-]+", name) and len(name) <= LONGEST_NAME:
        return name
    return f"drawn-{crc32(name.encode()):08x}-{TOKENS[case.dtype]}"


def layer_vector(root: Path, place: Path, case: LayerCase, question: Question) -> Path:
    """Inputs, truth and budgets of a layer's case at `root / place`."""
    expectations = case.expected()
    question.write(root / place, **case_record(case, question, expectations))
    write_tensors(root / place / EXPECTED, expected_tensors(question, expectations))
    return place


def case_record(case: LayerCase, question: Question, expectations: Sequence[Expectation]) -> dict[str, Any]:
    """What case.json says beside the question: the identity of the case, and how its outputs are compared.

    ties: whether any of equal scores may be chosen, so that other indices than the expected ones can be right.
    """
    outputs = expected_records(question, expectations, case.family.axes)
    return {"id": case.id, "rule": case.rule, "ties": case.family.chooses is not None, "outputs": outputs}
