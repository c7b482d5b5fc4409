"""What a run found. Its forms: JSON (`conformance.results_file`), JUnit (`conformance.files`), HTML (`conformance.page`),
Markdown and a badge (`conformance.summary`), a table and words (`conformance.text`).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from conformance import files
from conformance.verdict import VERDICTS, Result
from refimpl import SPEC_VERSION

OK, FAILED, TOO_FEW = 0, 1, 5


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of one run in the order of the cases.

    reference: the backend as a command line names it. settings: what was asked for.
    minimum: how many cases must have run; None: one a covered layer.
    """

    backend: str
    reference: str
    version: str
    results: tuple[Result, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    minimum: int | None = None
    spec_version: str = SPEC_VERSION

    @property
    def ok(self) -> bool:
        """Whether the backend conforms: enough ran, and nothing failed that was not expected to."""
        return self.exit_code == OK

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 does not, 5 nothing or too little ran."""
        if self.failures():
            return FAILED
        return TOO_FEW if self.too_few else OK

    @property
    def too_few(self) -> str:
        """A sentence when fewer cases ran than needed, else empty."""
        ran = sum(result.ran for result in self.results)
        needed = max(self.minimum or 1, 1)
        if ran < needed:
            return f"{ran} cases ran but at least {needed} must: {_what_did_not(self.results)}"
        if self.minimum is None and (idle := self._idle()):
            return f"offered, but not one case ran of {', '.join(idle)}: all unsupported"
        return ""

    def _idle(self) -> list[str]:
        """Layers whose function is there and answers every case with `unsupported`."""
        layers = [result for result in self.results if result.level == "layer"]
        ran = {result.layer for result in layers if result.ran}
        return sorted({result.layer for result in layers if result.verdict == "unsupported"} - ran)

    def failures(self) -> list[Result]:
        """The results that make the run fail."""
        return [result for result in self.results if result.failed and not result.expected]

    def expected_failures(self) -> list[Result]:
        """Failures that the xfails file lists."""
        return [result for result in self.results if result.failed and result.expected]

    def unexpected_passes(self) -> list[Result]:
        """Cases that the xfails file lists and that pass: its lines should go."""
        return [result for result in self.results if result.verdict == "pass" and result.expected]

    def counts(self) -> dict[str, int]:
        """How many results of each verdict; `expected` failures and `unexpected passes` are also among fail, error and pass."""
        counted = Counter(result.verdict for result in self.results)
        counts = {str(verdict): counted[verdict] for verdict in VERDICTS}
        return {**counts, "expected": len(self.expected_failures()), "unexpected passes": len(self.unexpected_passes())}

    @property
    def score(self) -> float | None:
        """pass / (pass + fail + error), None when nothing ran."""
        ran = [result for result in self.results if result.ran]
        return sum(result.verdict == "pass" for result in ran) / len(ran) if ran else None

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The whole report as JSON, a line a case, the same for the same results; written to `path` when given."""
        from conformance import results_file

        return files.write(results_file.as_json(self), path)

    def to_junit(self, path: str | os.PathLike[str] | None = None) -> str:
        """JUnit XML, as continuous integration reads it; written to `path` when given."""
        return files.write(files.as_junit(self), path)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """One page of HTML without scripts; written to `path` when given."""
        from conformance import page

        return files.write(page.as_html([self]), path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """A summary in Markdown; written to `path` when given."""
        from conformance import summary

        return files.write(summary.as_markdown([self]), path)

    def to_badge(self, path: str | os.PathLike[str] | None = None) -> str:
        """The JSON of which shields.io makes a badge; written to `path` when given."""
        from conformance import summary

        return files.write(summary.as_badge([self]), path)


def _what_did_not(results: tuple[Result, ...]) -> str:
    if not results:
        return "no case was selected"
    counted = Counter(result.verdict for result in results if not result.ran)
    return ", ".join(f"{count} {verdict}" for verdict, count in counted.items()) or "no other was selected"
