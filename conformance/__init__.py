"""The conformance suite: `run(backend)` asks an implementation every question that the specification answers.

    from conformance import run

    report = run("torch")                         # a name, "path/to/adapter.py", a module, an object, a mapping
    report.ok, report.exit_code, report.counts()
    report.to_json("report.json"), report.to_junit("report.xml"), report.to_html("report.html")
    read_report("report.json")                    # the same again; `refimpl report` shows several side by side

`cases()` lists the cases, `find_case(id)` makes one, `reproduce(id, backend)` asks it again. What a backend is, says
`conformance.backend`; how ids are built, `conformance.case`; how budgets are derived, `conformance.judge`.
"""

from conformance import laws
from conformance.backend import Backend, BackendError
from conformance.case import Case
from conformance.catalogue import cases, find_case
from conformance.doors import backend_names, load_backend
from conformance.report import Report
from conformance.results_file import ResultsError, read_report
from conformance.runner import Progress, reproduce, run
from conformance.verdict import Judgement, Result

__all__ = [
    "Backend",
    "BackendError",
    "Case",
    "Judgement",
    "Progress",
    "Report",
    "Result",
    "ResultsError",
    "backend_names",
    "cases",
    "find_case",
    "laws",
    "load_backend",
    "read_report",
    "reproduce",
    "run",
]
