"""What the suite says of one case.

pass            inside the budget
fail            shape | dtype | non-finite | numeric | law | mutation (the backend wrote into its inputs) | state (an answer
                depends on other calls)
unsupported     the backend says that it does not do this, and why
not covered     the backend does not offer the function
error           the backend raised; timeout: it did not answer; crash: it ended its process
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "unsupported", "not covered", "error"]
Kind = Literal["", "shape", "dtype", "non-finite", "numeric", "law", "mutation", "state", "timeout", "crash"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "error", "unsupported", "not covered")
RAN = ("pass", "fail", "error")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A known bug, or two at once, that a wrong answer looks like.

    mutants: their ids (`conformance.mutants`). share: the part of the budget by which the answer differs from theirs.
    """

    mutants: tuple[str, ...]
    share: float
    sentence: str
    links: tuple[str, ...]

    def text(self) -> str:
        """One line: which, what, where."""
        return " ".join((f"{' with '.join(self.mutants)}: {self.sentence}", *self.links))

    def record(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return {"mutants": list(self.mutants), "share": self.share, "sentence": self.sentence, "links": list(self.links)}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with its reasons.

    sentence: why, in words. worst: where the error is largest. minimal: the smallest failing case that a search found.
    share: the larger of error / budget in the two norms; 1 is the border. suspects: known bugs that it looks like, nearest
    first. histogram: of a failure, how many entries have 2^e < error / budget <= 2^(e+1), as pairs (e, count) by e; the budget
    is that of the maximum, and the first and the last e that there are (`conformance.judge`) take in what is beyond them.
    """

    verdict: Verdict
    kind: Kind = ""
    sentence: str = ""
    worst: str = ""
    minimal: str = ""
    share: float | None = None
    max_error: float | None = None
    max_budget: float | None = None
    rms_error: float | None = None
    rms_budget: float | None = None
    suspects: tuple[Suspect, ...] = ()
    histogram: tuple[tuple[int, int], ...] = ()

    def record(self) -> dict[str, Any]:
        """Everything, as plain values for JSON, without what is absent."""
        known = {key: value for key, value in vars(self).items() if value not in ("", None, ())}
        return {**known, **({"suspects": [one.record() for one in self.suspects]} if self.suspects else {})}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The judgement of a case. `expected`: the reason given in the xfails file, when it lists the case."""

    id: str
    level: str
    layer: str
    dtype: str
    rule: str
    judgement: Judgement
    expected: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    @property
    def failed(self) -> bool:
        """Whether the candidate was found wrong, expectedly or not."""
        return self.verdict in ("fail", "error")

    @property
    def ran(self) -> bool:
        return self.verdict in RAN

    def record(self) -> dict[str, Any]:
        """Everything, as plain values for JSON, without what is absent."""
        own = {"id": self.id, "level": self.level, "layer": self.layer, "dtype": self.dtype, "rule": self.rule}
        return {**own, **self.judgement.record(), **({"expected": self.expected} if self.expected else {})}
