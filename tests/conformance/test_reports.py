"""Reports as files that others read: results.json and back, Markdown, a badge, `refimpl report`; and files that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from conformance import ResultsError, read_report, run
from conformance.grid import grid, verdict_line
from conformance.judge import LARGEST_BIN, SMALLEST_BIN, Norms, histogram, measure
from conformance.page import as_html
from conformance.summary import as_badge, as_markdown
from conformance.verdict import Judgement
from refimpl.cli import status
from refimpl.layers import silu
from tests.conformance.made_reports import HOSTILE, PASS, WRONG, report, result


def test_a_report_read_back_is_the_same(tmp_path):
    path = tmp_path / "results.json"
    text = report(HOSTILE).to_json(path)
    again = read_report(path)
    assert again.to_json() == text
    assert set(again.results) == set(report().results)
    assert again.failures()[0].judgement == WRONG
    assert (again.backend, again.exit_code, again.spec_version) == (HOSTILE, 1, report().spec_version)
    assert as_html([again]) == as_html([report(HOSTILE)])


def test_a_case_is_a_line(tmp_path):
    before, after = report().to_json().splitlines(), report(results=report().results[1:]).to_json().splitlines()
    assert sum(line.startswith('{"id": ') for line in before) == len(report().results)
    gone = [line for line in before if line not in after and line.startswith('{"id"')]
    assert [json.loads(line.rstrip(","))["id"] for line in gone] == ["attention/window-decode-f32-w5"]


def test_a_real_run_is_read_back(tmp_path):
    text = run({"silu": lambda x: x}, k="silu/large", level="layer", dtype="float32").to_json(tmp_path / "results.json")
    (failed,) = read_report(tmp_path / "results.json").failures()
    assert read_report(tmp_path / "results.json").to_json() == text
    assert sum(count for _, count in failed.judgement.histogram) == 5 * 7


def test_a_file_cut_off_anywhere_is_one_sentence(tmp_path):
    text = report("größer", results=report().results[:1]).to_json().encode()
    path, umlaut = tmp_path / "cut.json", text.index("ö".encode()) + 1
    for end in (umlaut, *range(0, len(text.rstrip()), 3)):
        path.write_bytes(text[:end])
        with pytest.raises(ResultsError) as error:
            read_report(path)
        assert "ends too early, in line" in str(error.value), text[:end][-30:]
        assert "\n" not in str(error.value)


def changed(**keys):
    return json.dumps({**json.loads(report().to_json()), **keys})


def record(**keys):
    first, *rest = json.loads(report().to_json())["results"]
    return changed(results=[{**first, **keys}, *rest])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<html>", "is no JSON (Expecting value in line 1)"),
        ("[1, 2]", "is no results file of refimpl conform"),
        ('{"schemaVersion": 1}', 'it has no "schema": "refimpl results"'),
        ("[" * 100_000, "no JSON that can be read"),
        ("1" * 100_000, "no JSON that can be read"),
        (changed(schema_version=2), "has schema version 2, but this refimpl reads 1; a newer refimpl reads it"),
        (changed(schema_version="1"), "has schema_version '1'"),
        (changed(results=[]), 'its "counts" are not those of its results'),
        (changed(results=[5]), "result 1 is 5 but needs to be an object"),
        (changed(backend={"name": 5}), "has name 5"),
        (changed(backend={"name": "x"}), "has no 'reference'"),
        (changed(min_cases="many"), "has min_cases 'many'"),
        (record(verdict="maybe"), "result 1 has verdict 'maybe' but needs one of pass, fail"),
        (record(level="op"), "result 1 has level 'op' but needs one of layer"),
        (record(id=None), "result 1 has id None"),
        (record(share="much"), "result 1 has share 'much'"),
        (record(share=10**400), "result 1 has share with more digits"),
        (record(histogram=[[1]]), "result 1 has [1] in its histogram"),
        (record(histogram=[[10**9, 1]]), "in its histogram"),
        (record(suspects=["x"]), "result 1 has the suspect 'x'"),
        (record(id="silu/drawn-any-f32"), "lists 'silu/drawn-any-f32' twice"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(tmp_path, capsys, text, words):
    path = tmp_path / "other.json"
    path.write_text(text)
    assert status(["report", str(path)]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"refimpl: {path}: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_file_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(ResultsError, match=r"cannot be read \(No such file or directory\)$"):
        read_report(tmp_path / "none.json")


def test_keys_to_come_are_left_alone(tmp_path):
    (tmp_path / "later.json").write_text(record(colour="red"))
    assert set(read_report(tmp_path / "later.json").results) == set(report().results)


def test_errors_are_counted_in_doubling_bins():
    error = np.array([0.0, 1e-9, 0.5, 0.500001, 1.0, 1.000001, 2.0, -2.5, 4.0, 1e30])
    assert histogram(error, 1.0) == ((SMALLEST_BIN, 2), (-2, 1), (-1, 2), (0, 2), (1, 2), (LARGEST_BIN, 1))
    assert histogram(error, 0.0) == ()
    assert measure(error, 0 * error, Norms(1.0, 1.0), kind="numeric").histogram == histogram(error, 1.0)
    assert measure(error, error, Norms(1.0, 1.0), kind="numeric").histogram == ()


def test_a_grid_says_the_worst_and_the_largest_share():
    shown = grid([report()])
    assert [(row.level, row.layer) for row in shown.rows] == [
        ("layer", "attention"),
        ("layer", "silu"),
        ("layer", "token_order"),
        ("block", "decoder_layer"),
        ("model", "qwen3"),
        ("law", "law"),
    ]
    assert shown.idle == {"layer": ["geglu"]}
    assert [column.dtype for column in shown.columns] == ["float32", "bfloat16", "int64"]
    words = {row.layer: [cell.words for cell in row.cells] for row in shown.rows}
    assert words["attention"] == ["✗ fail 1 of 2", "≈ expected 1 of 2", ""]
    assert words["silu"] == ["! error 1 of 1", "", ""]
    assert words["qwen3"] == ["– unsupported", "", ""]
    assert [row.cells[0].share for row in shown.rows][:4] == [12.3, None, None, 0.348]


def test_reports_of_one_backend_are_told_apart_by_their_files():
    assert grid([report(), report()], ["old/r.json", "new/r.json"]).labels == ("mine 1.0 (old/r.json)", "mine 1.0 (new/r.json)")
    assert grid([report(), report("other")], ["a", "b"]).labels == ("mine 1.0", "other 1.0")


ALL_PASS = report(results=tuple(result(f"silu/{number}-any-f32", PASS) for number in range(1723)))
AS_EXPECTED = report(results=(*ALL_PASS.results[:3], result("silu/x-any-f32", WRONG, expected="known")))


@pytest.mark.parametrize(
    ("reports", "message", "colour"),
    [
        ([ALL_PASS], "conforms 1,723", "brightgreen"),
        ([report()], "2 fail of 8", "red"),
        ([AS_EXPECTED], "conforms 3, 1 expected to fail", "yellowgreen"),
        ([replace(ALL_PASS, minimum=2000)], "too little ran: 1,723", "lightgrey"),
        ([ALL_PASS, report("other")], "mine conforms 1,723; other 2 fail of 8", "red"),
    ],
)
def test_a_badge(reports, message, colour):
    badge = json.loads(as_badge(reports))
    assert badge == {"schemaVersion": 1, "label": f"refimpl {report().spec_version}", "message": message, "color": colour}
    if len(reports) == 1:
        assert reports[0].to_badge() == as_badge(reports)
        assert verdict_line(reports[0]) == message


def test_a_summary_in_markdown():
    text = as_markdown([report(HOSTILE), report("other")])
    assert "| layer | attention | ✗ fail 1 of 2 12.3 | ≈ expected 1 of 2 12.3 |  | ✗ fail 1 of 2 12.3 |" in text
    assert "Looks like window-plus-one." in text
    assert "<" not in text.replace("`", "").split("### Failures")[0]
    assert "{{ 7\\*7 }}\\|\\`\\*\\_\\[x\\](y)" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ") and "layer" in line}
    assert widths == {3 + 2 * 3}
    assert "\x00" not in text
    assert "\u202e" not in text


def test_a_summary_stays_small():
    many = report(results=tuple(result(f"silu/{number}-any-f32", WRONG) for number in range(5000)))
    assert len(as_markdown([many])) < 50_000
    assert "- and 4,950 more" in as_markdown([many])


def test_reports_side_by_side_on_the_command_line(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path, made in zip(paths, (report(), report("other", spec_version="2025.9")), strict=True):
        made.to_json(path)
    targets = {form: tmp_path / form for form in ("html", "markdown", "badge")}
    options = [part for form, path in targets.items() for part in (f"--{form}", str(path))]
    assert status(["report", *paths, *options]) == 0
    assert "a.json: 5 pass" in capsys.readouterr().out
    assert "different versions of the specification" in targets["html"].read_text()
    assert "different versions of the specification" in targets["markdown"].read_text()
    assert json.loads(targets["badge"].read_text())["label"] == "refimpl"
    assert status(["report", paths[0], "--markdown", "-"]) == 0
    assert capsys.readouterr().out == as_markdown([report()])


def test_conform_writes_every_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from refimpl.layers import silu\n")
    forms = ["json", "junit", "html", "markdown", "badge"]
    options = [part for form in forms for part in (f"--{form}", f"r.{form}")]
    assert status(["conform", "mine.py", "-k", "silu/large", "-n", "0", "-q", *options]) == 0
    made = run({"silu": silu, "name": "mine"}, k="silu/large")
    assert json.loads((tmp_path / "r.badge").read_text())["message"] == verdict_line(made) == "conforms 1"
    assert status(["report", "r.json", "--html", "again.html", "--markdown", "again.md"]) == 0
    assert (tmp_path / "again.html").read_text() == (tmp_path / "r.html").read_text()
    assert (tmp_path / "again.md").read_text() == (tmp_path / "r.markdown").read_text()


def test_names_and_reasons_of_others_harm_neither_xml_nor_terminals(tmp_path, capsys):
    hostile = Judgement(verdict="unsupported", sentence="\x1b]0;mine\x07 \ud800 <b>")
    made = report("\x1b[31mred\ud800", results=(result("a\x1bb/c-any-f32", hostile), result("d/e-any-f32", PASS)))
    suites = ElementTree.fromstring(made.to_junit(tmp_path / "junit.xml"))
    assert suites.find(".//skipped").get("message") == "unsupported: ]0;mine  <b>"
    assert suites.get("name").endswith(": [31mred")
    made.to_json(tmp_path / "results.json")
    assert read_report(tmp_path / "results.json") == made
    assert status(["report", str(tmp_path / "results.json")]) == 0
    said = capsys.readouterr().out
    assert "[31mred 1.0" in said
    assert "\x1b" not in said


def test_a_report_without_results_has_every_form():
    empty = report(results=())
    assert verdict_line(empty) == "too little ran: 0"
    for form in (empty.to_json, empty.to_junit, empty.to_html, empty.to_markdown, empty.to_badge):
        assert form()
