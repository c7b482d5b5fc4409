"""Reports as files: JSON, JUnit XML, HTML. Nothing in them depends on when or where the run was."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from refimpl import SPEC_VERSION

if TYPE_CHECKING:
    from conformance.report import Report
    from conformance.verdict import Result

SCHEMA_VERSION = 1


def write(text: str, path: str | os.PathLike[str] | None) -> str:
    """`text`, also written to `path` when there is one. ValueError when that cannot be."""
    if path is None:
        return text
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"the path of a report is {path!r} but needs a string or a path")
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from None
    return text


def as_json(report: Report) -> str:
    """Everything, one record a case, sorted by id."""
    records = sorted((_rounded(result.record()) for result in report.results), key=lambda record: str(record["id"]))
    whole = {
        "schema_version": SCHEMA_VERSION,
        "spec_version": SPEC_VERSION,
        "backend": {"name": report.backend, "version": report.version},
        "settings": report.settings,
        "exit_code": report.exit_code,
        "score": report.score,
        "counts": report.counts(),
        "results": records,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_junit(report: Report) -> str:
    """A test suite a level, a test case a case; what is not covered or unsupported counts as skipped."""
    from conformance.text import failure_text

    root = ElementTree.Element("testsuites", name=f"refimpl {SPEC_VERSION}: {report.backend}")
    for level in dict.fromkeys(result.level for result in report.results):
        results = [result for result in report.results if result.level == level]
        counted = {
            "tests": len(results),
            "failures": sum(result.verdict == "fail" and not result.expected for result in results),
            "errors": sum(result.verdict == "error" and not result.expected for result in results),
            "skipped": sum(_skipped(result) for result in results),
        }
        suite = ElementTree.SubElement(
            root, "testsuite", {"name": level, **{key: str(value) for key, value in counted.items()}}
        )
        for result in results:
            test = ElementTree.SubElement(suite, "testcase", classname=f"{level}.{result.layer}", name=result.id)
            if result.judgement.share is not None:
                properties = ElementTree.SubElement(test, "properties")
                ElementTree.SubElement(properties, "property", name="budget_used", value=f"{result.judgement.share:.3g}")
            if _skipped(result):
                ElementTree.SubElement(test, "skipped", message=result.expected or _verdict(result))
            elif result.failed:
                tag = "failure" if result.verdict == "fail" else "error"
                element = ElementTree.SubElement(test, tag, message=_printable(_verdict(result)))
                element.text = _printable(failure_text(result, report.reference))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def as_html(report: Report) -> str:
    """A page with the counts, a row a layer, and every failure in words."""
    from conformance.text import failure_text, grouped, totals_text

    title = escape(f"{report.backend} {report.version}".strip())
    rows = "\n".join(_html_row(level, layer, results) for (level, layer), results in grouped(report.results).items())
    failed = [result for result in report.results if result.failed]
    failures = "\n".join(f"<pre>{escape(failure_text(result, report.reference))}</pre>" for result in failed) or "<p>None.</p>"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}: conformance to refimpl {SPEC_VERSION}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2em .8em; text-align: left; border-bottom: 1px solid #ccc; }}
td.number {{ text-align: right; }}
tr.failed {{ background: #fbe3e4; }}
pre {{ background: #f5f5f5; padding: .8em; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<p>Specification {SPEC_VERSION}. {escape(totals_text(report))}.</p>
<p>Share: the largest error as a part of its budget; above 1 a case fails.</p>
<table>
<tr><th>level<th>layer<th>pass<th>fail<th>error<th>unsupported<th>not covered<th>share
{rows}
</table>
<h2>Failures</h2>
{failures}
</html>
"""


def _html_row(level: str, layer: str, results: list[Result]) -> str:
    verdicts = [result.verdict for result in results]
    numbers = [str(verdicts.count(name) or "") for name in ("pass", "fail", "error", "unsupported", "not covered")]
    shares = [result.judgement.share for result in results if result.judgement.share is not None]
    numbers.append(f"{max(shares):.2g}" if shares else "")
    cells = "".join(f'<td class="number">{number}' for number in numbers)
    state = ' class="failed"' if any(result.failed and not result.expected for result in results) else ""
    return f"<tr{state}><td>{escape(level)}<td>{escape(layer)}{cells}"


def _verdict(result: Result) -> str:
    kind = f" ({result.judgement.kind})" if result.judgement.kind else ""
    return f"{result.verdict}{kind}: {result.judgement.sentence}"


def _skipped(result: Result) -> bool:
    return not result.ran or bool(result.failed and result.expected)


def _printable(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def _rounded(record: dict[str, object]) -> dict[str, object]:
    """Numbers to three digits, so that reports of two machines can be compared; infinite ones as text."""

    def plain(value: object) -> object:
        if not isinstance(value, float):
            return value
        short = float(f"{value:.3g}")
        return short if abs(short) < float("inf") else str(value)

    return {key: plain(value) for key, value in record.items()}
