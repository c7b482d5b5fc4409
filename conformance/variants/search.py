"""The long search for false alarms: every variant, in every format that it is meant for, on the values of many seeds.

    python -m conformance.variants.search [--seeds 200] [--every] [-k EXPRESSION] [--dtype DTYPE]... [-n N] [--record FILE]

For each seed, with values of that seed: one hand-picked case of every function in turn (with --every all of them), one drawn
case of every function, and one block of every kind in turn. -k chooses among "VARIANT FUNCTION" (for a block its kind, such
as attention_block) as pytest's -k does. With --record what is done is written to FILE, a line a job, and not done again by a
call with the same FILE and the same variants.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from conformance.backend import Backend
from conformance.block_list import BLOCKS
from conformance.blocks import BlockCase, block_cases
from conformance.cases import FAMILIES
from conformance.family import LayerCase
from conformance.jobs import HYPOTHESIS_ELSEWHERE
from conformance.search import search
from conformance.select import Predicate, expression
from conformance.threads import share_of_cores
from conformance.variants import VARIANTS
from conformance.variants.judging import JudgedBlock, JudgedLayer
from conformance.verdict import Judgement
from refimpl.numerics import FORMATS

# Another number makes other jobs, which draw other cases.
SEEDS_A_JOB = 25
Found = tuple[str, str, Judgement]


@dataclass(frozen=True)
class Job:
    """Some seeds of one function, or of one kind of block, at one dtype, for the variants that may have a say there."""

    function: str
    dtype: str
    first: int
    seeds: int
    every: bool
    variants: tuple[str, ...]

    @property
    def key(self) -> str:
        return json.dumps(asdict(self))

    def judgements(self) -> Iterator[Found]:
        """Variant, case and seed, judgement."""
        with HYPOTHESIS_ELSEWHERE, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield from self._of_blocks() if self.function in BLOCKS else self._of_layers()

    def _of_blocks(self) -> Iterator[Found]:
        cases = [case for case in block_cases(self.dtype) if isinstance(case, BlockCase) and case.function == self.function]
        for seed in range(self.first, self.first + self.seeds):
            case = cases[seed % len(cases)]
            judged = JudgedBlock(case, seed + 1)
            for id in self.variants:
                if (id, case.id) not in _NOT_COVERED:
                    judgement = judged.judge(VARIANTS[id])
                    if judgement.verdict == "not covered":
                        _NOT_COVERED.add((id, case.id))
                    yield id, judged.case.id, judgement

    def _of_layers(self) -> Iterator[Found]:
        for case in self._cases():
            judged = JudgedLayer(case)
            for id in self.variants:
                yield id, f"{case.id} seed {case.seed}", judged.judge(_backend(id))

    def _cases(self) -> Iterator[LayerCase]:
        family = FAMILIES[self.function]
        drawn = search(family, self.dtype, max_examples=self.seeds, seed=self.first).drawn()
        for seed in range(self.first, self.first + self.seeds):
            edges = family.edges if self.every else (family.edges[seed % len(family.edges)],)
            yield from (family.case(one, self.dtype, seed=seed) for one in edges)
            if drawn:
                yield family.drawn(drawn[(seed - self.first) % len(drawn)].parameters, seed, self.dtype)


# Variants that change nothing in a block, whatever the seed: to find that out takes as long as to judge.
_NOT_COVERED: set[tuple[str, str]] = set()


@cache
def _backend(id: str) -> Backend:
    return VARIANTS[id].backend()


def jobs(seeds: int, matches: Predicate, dtypes: Iterable[str], *, every: bool = False) -> list[Job]:
    """All jobs, the seeds from 0 on. BackendError where a library that is asked for is not installed."""
    found = []
    for first in range(0, seeds, SEEDS_A_JOB):
        for dtype in dtypes:
            for function in (*FAMILIES, *BLOCKS):
                meant = (id for id in _meant(function, dtype) if matches(f"{id} {function}"))
                ids = tuple(id for id in meant if function in BLOCKS or function in _backend(id).functions)
                if ids:
                    found.append(Job(function, dtype, first, min(SEEDS_A_JOB, seeds - first), every, ids))
    return found


def _meant(function: str, dtype: str) -> list[str]:
    """The ids of those that there may be of a function, or in a kind of block, at a dtype."""
    if dtype not in (FORMATS if function in BLOCKS else FAMILIES[function].dtypes):
        return []
    return [id for id, variant in VARIANTS.items() if dtype in variant.dtypes or dtype not in FORMATS]


def work(job: Job) -> dict[str, Any]:
    """What came out of a job, as plain values: for each variant the counts and the largest share; all failures."""
    counts: dict[str, dict[str, Any]] = {}
    failures = []
    for id, case, judgement in job.judgements():
        if judgement.verdict in ("not covered", "unsupported"):
            continue
        count = counts.setdefault(id, {"judgements": 0, "share": 0.0, "case": ""})
        count["judgements"] += 1
        if judgement.verdict != "pass":
            failures.append({"variant": id, "case": case, **judgement.record()})
        elif (judgement.share or 0.0) > count["share"]:
            count.update(share=judgement.share, case=case)
    return {"job": job.key, "dtype": job.dtype, "variants": counts, "failures": failures}


def run(todo: list[Job], workers: int, tell: Callable[[dict[str, Any]], None]) -> None:
    """Work them off, here or in so many processes, and tell of each."""
    if workers < 2:
        for job in todo:
            tell(work(job))
        return
    with share_of_cores(workers), ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, job) for job in todo]):
            tell(future.result())


def table(results: Iterable[dict[str, Any]]) -> list[str]:
    """A line a variant and dtype, and the totals."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for result in results:
        for id, count in result["variants"].items():
            row = rows.setdefault((id, result["dtype"]), [0, 0, 0.0, ""])
            row[0] += count["judgements"]
            row[1] += sum(failure["variant"] == id for failure in result["failures"])
            row[2], row[3] = max((row[2], row[3]), (count["share"], count["case"]))
    ordered = sorted(rows.items(), key=lambda row: ([*VARIANTS].index(row[0][0]), row[0][1]))
    lines = [f"{id:42} {dtype:8} {n:8} {bad:4}  {share:.3f}  {case}" for (id, dtype), (n, bad, share, case) in ordered]
    total = f"{sum(row[0] for row in rows.values())} judgements, {sum(row[1] for row in rows.values())} failures"
    return [f"{'variant':42} {'dtype':8} {'judged':>8} {'fail':>4}  largest share", *lines, total]


def main(arguments: list[str]) -> int:
    """Status 1 where a variant failed."""
    parser = argparse.ArgumentParser(prog="python -m conformance.variants.search", description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--every", action="store_true", help="all hand-picked cases at every seed")
    parser.add_argument("-k", help='parts of "VARIANT FUNCTION" joined by and, or, not, parentheses')
    parser.add_argument("--dtype", action="append", choices=[*FORMATS, "int64"])
    parser.add_argument("-n", "--workers", type=int, default=0)
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args(arguments)
    todo = jobs(asked.seeds, expression(asked.k), asked.dtype or [*FORMATS, "int64"], every=asked.every)
    wanted = {job.key for job in todo}
    known = asked.record.read_text().splitlines() if asked.record is not None and asked.record.exists() else []
    results = [result for line in known if (result := json.loads(line))["job"] in wanted]
    done = {result["job"] for result in results}

    def tell(result: dict[str, Any]) -> None:
        results.append(result)
        for failure in result["failures"]:
            print("FAIL", failure["variant"], failure["case"], failure["sentence"], failure.get("worst", ""), flush=True)
        if asked.record is not None:
            with asked.record.open("a") as file:
                file.write(json.dumps(result) + "\n")

    run([job for job in todo if job.key not in done], asked.workers, tell)
    print(*table(results), sep="\n")
    return int(any(result["failures"] for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
