"""The items of pytest that the plug-in (`refimpl_pytest`) collects in the place of this file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from conformance.backend import Backend
from conformance.case import Case, Workspace
from conformance.doors import load_backend
from conformance.jobs import HYPOTHESIS_ELSEWHERE
from conformance.profiles import DEFAULT
from conformance.selection import selection
from conformance.text import failure_text
from conformance.verdict import Result
from refimpl_pytest import VERDICT


def collector(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The suite where `path` is this file, None where it is another of that name."""
    if path.resolve() != Path(__file__).resolve():
        return None
    return Suite.from_parent(parent, path=path)


class Suite(pytest.File):
    """The cases that the options choose."""

    @cached_property
    def backend(self) -> Backend:
        return load_backend(self._option("backend"))

    @cached_property
    def workspace(self) -> Workspace:
        directory = TemporaryDirectory(prefix="refimpl-", ignore_cleanup_errors=True)
        self.config.add_cleanup(directory.cleanup)
        return Workspace(Path(directory.name), diagnosed={case.id for case, reason in self._chosen if not reason})

    def collect(self) -> Iterator[pytest.Item]:
        try:
            chosen = self._chosen
        except ValueError as error:  # one sentence, and no traceback of ours
            raise self.CollectError(str(error)) from None
        for case, reason in chosen:
            item = CaseItem.from_parent(self, name=case.id, case=case)
            if reason:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
            yield item

    @cached_property
    def _chosen(self) -> list[tuple[Case, str]]:
        asked = selection(
            level=_several(self._option("level")),
            dtype=_several(self._option("dtype")),
            profile_name=self._option("profile") or DEFAULT,
            max_examples=self._option("max-examples"),
            seed=self._option("seed"),
            xfails_file=self._option("xfails-file"),
        )
        return asked.cases(self.backend.dtypes)

    def _option(self, name: str) -> Any:
        return self.config.getoption(f"--refimpl-{name}")


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **rest: Any) -> None:
        super().__init__(**rest)
        self.case = case

    def runtest(self) -> None:
        assert isinstance(self.parent, Suite)
        with HYPOTHESIS_ELSEWHERE:  # for no longer than a case: the project may have tests of its own with Hypothesis
            result = self.case.result(self.parent.backend, self.parent.workspace)
        self.user_properties.append((VERDICT, result.verdict))
        if not result.ran:
            pytest.skip(f"{result.verdict}: {result.judgement.sentence}")
        if result.failed:
            raise NotConforming(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, NotConforming):
            assert isinstance(self.parent, Suite)
            return failure_text(excinfo.value.result, self.parent.backend.reference)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.case.id


class NotConforming(Exception):
    """A case that failed."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.judgement.sentence)
        self.result = result


def _several(text: str | None) -> Any:
    if text is None or "," not in text:
        return text
    return text.split(",")
