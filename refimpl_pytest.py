"""The conformance suite inside a project's own tests: a plug-in of pytest, which any run loads, so that it imports nothing.

    pytest --pyargs conformance --refimpl-backend=package.module

One item a case, its id the name: `suite.py::rms_norm/plain-any-f32-b2t5d24`. What the backend does not do is
skipped, with the reason; known failures are xfail, and strictly so; `-k`, `-n` of pytest-xdist and the rest are pytest's own.
"""

from __future__ import annotations

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
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("refimpl", "conformance to refimpl")
    for name, text in OPTIONS.items():
        numeric = name in ("max-examples", "seed")
        group.addoption(f"--refimpl-{name}", metavar="N" if numeric else "TEXT", type=int if numeric else str, help=text)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != "suite.py" or not parent.config.getoption("--refimpl-backend"):
        return None
    from conformance import suite

    return suite.collector(file_path, parent)
