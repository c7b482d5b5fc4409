"""The table of mutants: which case kills each, by which share of the budget, in which formats.

    python -m conformance.mutants.table [ID...]     measures these mutants and new ones, or all, and writes
                                                    table.json beside this file and docs/mutants.md

Mutants of layers are judged on the hand-picked cases of the functions that they replace; those of whole models on the small
models of the architectures that they name. The case that is written down is the one with the largest share, for models of the
first budget. Shares refer to the budget of all rounds of samples (`conformance.judge`), which differs less between processors;
the largest error is the mutant's own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance.backend import Backend, as_backend
from conformance.case import Case, Workspace
from conformance.cases import FAMILIES
from conformance.family import INTEGERS, LayerCase
from conformance.models import ModelCase, model_cases
from conformance.mutants import MUTANTS, NOT_EXPRESSED, REPORTS, Mutant
from conformance.variants.judging import JudgedLayer
from conformance.verdict import Judgement
from refimpl.numerics import FORMATS

TABLE = Path(__file__).with_name("table.json")
COLUMNS = (*FORMATS, *INTEGERS)
DOCUMENT = Path(__file__).parents[2] / "docs" / "mutants.md"


def cases_of(mutant: Mutant, dtype: str) -> list[Case]:
    """The cases that are to kill a mutant at one dtype."""
    if mutant.functions:
        families = (FAMILIES[name] for name in mutant.functions)
        return [case for family in families if dtype in family.dtypes for case in family.cases(dtype)]
    return [case for case in model_cases(dtype) if case.function in mutant.architectures]


def backend_of(mutant: Mutant) -> Backend:
    """A mutant of layers offers those alone."""
    return as_backend(dict(mutant.functions) or {"load": mutant.load}, name=mutant.id)


def measure(mutant: Mutant, cases: Iterable[Case]) -> dict[str, Any]:
    """What cases of one dtype say of a mutant: how many kill it, the one that does so most clearly, and by what."""
    backend = backend_of(mutant)
    with tempfile.TemporaryDirectory() as directory:
        workspace = Workspace(Path(directory))
        found = [(case, judgement_of(case, backend, workspace)) for case in cases]
    case, judgement = max(found, key=lambda pair: _clearness(pair[1]))
    entry: dict[str, Any] = {"killed": sum(one.verdict == "fail" for _, one in found), "of": len(found), "case": case.id}
    if isinstance(case, ModelCase):
        judgement = _settled(case, judgement)
    if judgement.share is not None and np.isfinite(judgement.share):  # infinite where the truth and its noise are 0
        return {**entry, "share": float(f"{judgement.share:.3g}"), "error": float(f"{judgement.max_error:.3g}")}
    return {**entry, "by": judgement.kind or judgement.verdict}


def judgement_of(case: Case, backend: Backend, workspace: Workspace) -> Judgement:
    """As `case.result`; of a layer under the budget of all rounds, which is made once for all mutants."""
    if not isinstance(case, LayerCase):
        return case.result(backend, workspace).judgement
    return _JUDGED.setdefault(case.id, JudgedLayer(case, settled=True)).judge(backend)


_JUDGED: dict[str, JudgedLayer] = {}


def _settled(case: ModelCase, judgement: Judgement) -> Judgement:
    """The same under the budget of all rounds."""
    if judgement.max_error is None or judgement.rms_error is None:
        return judgement
    budget = case.expected().settled().budget
    return replace(judgement, share=max(judgement.max_error / budget.maximum, judgement.rms_error / budget.rms))


def _clearness(judgement: Judgement) -> tuple[bool, float]:
    return judgement.verdict == "fail", judgement.share or 0.0


def measured(mutants: Iterable[Mutant]) -> dict[str, dict[str, Any]]:
    """id -> dtype -> what `measure` says."""
    return {mutant.id: {dtype: measure(mutant, cases_of(mutant, dtype)) for dtype in mutant.dtypes} for mutant in mutants}


def table() -> dict[str, dict[str, Any]]:
    """What was measured last."""
    found: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
    return found


def document(found: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown."""
    return "\n".join([*_head(found), *(_row(MUTANTS[id], entry) for id, entry in found.items()), *_tail()]) + "\n"


def _head(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    lost = [(id, dtype) for id, entry in found.items() for dtype, one in entry.items() if not one["killed"]]
    bugs = {bug for mutant in MUTANTS.values() for bug in mutant.bugs}
    yield "# Mutants\n"
    yield (
        f"{len(found)} known ways of being wrong, which express {len(bugs)} reports of real bugs. A number is the share of the "
        "budget by which the clearest case of the suite refuses the mutant; 1 is the border. Where there is none the mutant is "
        "refused without one (NaN, unequal integers, a shape, anything where only 0 is right); a dash stands where a fault "
        "does not exist in a format.\n"
    )
    alive = "; ".join(f"{id} at {dtype} ({found[id][dtype]['share']})" for id, dtype in lost)
    yield f"Inside the budget: {alive}.\n" if lost else "No mutant is inside the budget.\n"
    yield "Written by `python -m conformance.mutants.table`.\n"
    yield "| Mutant | What is wrong | In | Clearest case | " + " | ".join(COLUMNS) + " | Reports |"
    yield "|---|---|---|---|" + "---|" * len(COLUMNS) + "---|"


def _row(mutant: Mutant, entry: dict[str, Any]) -> str:
    where = ", ".join(f"`{name}`" for name in mutant.functions or (mutant.kind, *mutant.architectures))
    first = next((dtype for dtype in ("float32", *entry) if dtype in entry), "")
    shares = [_cell(entry[dtype]) if dtype in entry else "–" for dtype in COLUMNS]
    links = " ".join(f"[{number}]({link})" for number, link in enumerate(mutant.links, 1))
    return "| " + " | ".join([mutant.id, mutant.says, where, f"`{entry[first]['case']}`", *shares, links]) + " |"


def _cell(one: dict[str, Any]) -> str:
    share = f"{one['share']:.3g}" if "share" in one else one["by"]
    return share if one["killed"] else f"**{share}**"


def _tail() -> Iterator[str]:
    yield "\n## Not expressed\n"
    yield "| Report | Why no mutant expresses it |\n|---|---|"
    for report, reason in NOT_EXPRESSED.items():
        yield f"| {f'[{report}]({REPORTS[report]})' if REPORTS[report] else report} | {reason} |"


def write(ids: list[str]) -> None:
    """Measure anew: some mutants and those that are not in the table yet, or all."""
    kept = {} if not ids else {id: entry for id, entry in table().items() if id not in ids}
    new = measured(mutant for mutant in MUTANTS.values() if mutant.id not in kept)
    found = {id: (kept | new)[id] for id in MUTANTS}
    TABLE.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(found))


if __name__ == "__main__":
    write(sys.argv[1:])
