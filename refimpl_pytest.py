"""The conformance suite inside a project's own tests: a plug-in of pytest, which any run loads, so that it imports nothing.

    pytest --pyargs conformance --refimpl-backend=package.module

One item a case, its id the name: `suite.py::rms_norm/plain-any-f32-b2t5d24`. What the backend does not do is
skipped, with the reason; known failures are xfail, and strictly so; `-k`, `-n` of pytest-xdist and the rest are pytest's own.
Where fewer of them ran than --refimpl-min-cases (1 by default), the exit status is 5, as where nothing is collected.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

OPTIONS = {
    "backend": "what to test: a name, path/to/adapter.py[:attribute] or a module; without it nothing of the suite is collected",
    "xfails-file": "known failures: lines of `glob  # reason  url`",
    "level": "layer, block, model or law, several by commas; all by default",
    "dtype": "float64, float32, bfloat16, float16, several by commas, or all; by default those that the backend claims",
    "profile": "how many cases to draw: dev (the default), ci or nightly",
    "max-examples": "drawn cases a layer and dtype, in place of the profile's",
    "seed": "where the drawing starts, in place of the profile's",
    "min-cases": "exit status 5 when fewer of the cases that were asked ran; 1 by default",
}
NUMBERS = ("max-examples", "seed", "min-cases")
# The property of a report that says what came out of a case.
VERDICT = "refimpl-verdict"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("refimpl", "conformance to refimpl")
    for name, text in OPTIONS.items():
        numeric = name in NUMBERS
        group.addoption(f"--refimpl-{name}", metavar="N" if numeric else "TEXT", type=int if numeric else str, help=text)


def pytest_configure(config: pytest.Config) -> None:
    # Processes of xdist tell the one that asks.
    if config.getoption("--refimpl-backend") and not hasattr(config, "workerinput"):
        minimum = config.getoption("--refimpl-min-cases")
        config.pluginmanager.register(Enough(1 if minimum is None else minimum))
        share_cores(config)


def share_cores(config: pytest.Config) -> None:
    """Processes of xdist use a share of the cores each, as those of `conformance.run` do."""
    from conformance.threads import share_of_cores

    shared = ExitStack()
    shared.enter_context(share_of_cores(config.getoption("numprocesses", None) or 1))
    config.add_cleanup(shared.close)


@dataclass
class Enough:
    """Whether so many cases ran as must: a backend of which all is skipped has shown nothing."""

    minimum: int
    asked: int = 0
    ran: int = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        verdict = dict(report.user_properties).get(VERDICT)
        if report.when == "call" and verdict is not None:
            from conformance.verdict import RAN

            self.asked += 1
            self.ran += verdict in RAN

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        from conformance.report import TOO_FEW

        if exitstatus == 0 and self._too_few:
            session.exitstatus = TOO_FEW

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._too_few:
            terminalreporter.write_line(
                f"refimpl: {self.ran} of {self.asked} cases ran but at least {self.minimum} must", red=True
            )

    @property
    def _too_few(self) -> bool:
        return self.asked > 0 and self.ran < self.minimum


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != "suite.py" or not parent.config.getoption("--refimpl-backend"):
        return None
    from conformance import suite

    return suite.collector(file_path, parent)
