"""What the suite says of one case.

pass            inside the budget
fail            shape | dtype | non-finite | numeric | law | mutation (the backend wrote into its inputs)
unsupported     the backend says that it does not do this, and why
not covered     the backend does not offer the function
error           the backend raised
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "unsupported", "not covered", "error"]
Kind = Literal["", "shape", "dtype", "non-finite", "numeric", "law", "mutation"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "error", "unsupported", "not covered")
RAN = ("pass", "fail", "error")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with its reasons.

    sentence: why, in words. worst: where the error is largest. minimal: the smallest failing case that a search found.
    share: the larger of error / budget in the two norms; 1 is the border.
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
        judgement = {key: value for key, value in vars(self.judgement).items() if value not in ("", None)}
        own = {"id": self.id, "level": self.level, "layer": self.layer, "dtype": self.dtype, "rule": self.rule}
        return {**own, **judgement, **({"expected": self.expected} if self.expected else {})}
