"""Reports as files: how they are written, and JUnit XML. Nothing in them depends on when or where the run was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4
from xml.etree import ElementTree

if TYPE_CHECKING:
    from conformance.report import Report
    from conformance.verdict import Result


def write(text: str, path: str | os.PathLike[str] | None) -> str:
    """`text`, also written to `path` when there is one: all of it or nothing, whoever else writes there. ValueError when that
    cannot be.
    """
    if path is None:
        return text
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"the path of a report is {path!r} but needs a string or a path")
    try:
        _replace(Path(path), text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from None
    return text


def _replace(path: Path, text: str) -> None:
    content = text.encode(errors="backslashreplace")  # halves of characters, which a name may have and UTF-8 has not
    if path.exists() and not path.is_file():  # a pipe or a device, whose place no file can take
        path.write_bytes(content)
        return
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def as_junit(report: Report) -> str:
    """A test suite a level, a test case a case; what is not covered or unsupported counts as skipped."""
    from conformance.text import failure_text

    root = ElementTree.Element("testsuites", name=printable(f"refimpl {report.spec_version}: {report.backend}"))
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
            names = {"classname": printable(f"{level}.{result.layer}"), "name": printable(result.id)}
            test = ElementTree.SubElement(suite, "testcase", names)
            if result.judgement.share is not None:
                properties = ElementTree.SubElement(test, "properties")
                ElementTree.SubElement(properties, "property", name="budget_used", value=f"{result.judgement.share:.3g}")
            if _skipped(result):
                ElementTree.SubElement(test, "skipped", message=printable(result.expected or _verdict(result)))
            elif result.failed:
                tag = "failure" if result.verdict == "fail" else "error"
                element = ElementTree.SubElement(test, tag, message=printable(_verdict(result)))
                element.text = printable(failure_text(result, report.reference))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _verdict(result: Result) -> str:
    kind = f" ({result.judgement.kind})" if result.judgement.kind else ""
    return f"{result.verdict}{kind}: {result.judgement.sentence}"


def _skipped(result: Result) -> bool:
    return not result.ran or bool(result.failed and result.expected)


def printable(text: str) -> str:
    """Without characters that XML forbids, or that show text as what it is not."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())
