"""The page of reports: its structure, what a reader without a mouse or colours has of it, and names that are no markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from conformance.histogram import Histogram
from conformance.page import MOST_FAILURES, as_html
from tests.conformance.made_reports import HOSTILE, LINK, WRONG, report, result

VOID = {"meta", "input", "br", "path", "line"}
CLOSED_BY_NEXT = {"td": {"td", "th"}, "th": {"td", "th"}, "dt": {"dt", "dd"}, "dd": {"dt", "dd"}, "li": {"li"}, "tr": {"tr"}}
OPTIONAL = {"td", "th", "dt", "dd", "li", "tr"}


class Tree(HTMLParser):
    """An HTML page as an ElementTree, where only tags that HTML lets one leave open are left open."""

    def __init__(self, text):
        super().__init__()
        self.root = ElementTree.Element("page")
        self.stack = [self.root]
        self.declaration = ""
        self.feed(text)
        self.close()
        assert self.stack == [self.root], [element.tag for element in self.stack]

    def handle_decl(self, declaration):
        self.declaration = declaration

    def handle_starttag(self, tag, attributes):
        if tag == "tr" and self.stack[-1].tag in ("td", "th"):
            self.stack.pop()
        if self.stack[-1].tag in CLOSED_BY_NEXT.get(tag, ()):
            self.stack.pop()
        assert len(dict(attributes)) == len(attributes), attributes
        element = ElementTree.SubElement(self.stack[-1], tag, {key: value or "" for key, value in attributes})
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag):
        while self.stack[-1].tag != tag and self.stack[-1].tag in OPTIONAL:
            self.stack.pop()
        if tag not in VOID:
            assert self.stack.pop().tag == tag

    def handle_data(self, data):
        parent = self.stack[-1]
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + data
        else:
            parent.text = (parent.text or "") + data


def words(element):
    return " ".join("".join(element.itertext()).split())


@pytest.fixture(scope="module")
def text():
    return as_html([report(HOSTILE), replace(report("other"), spec_version="2025.9")])


@pytest.fixture(scope="module")
def page(text):
    tree = Tree(text)
    assert tree.declaration == "doctype html"
    return tree.root


def test_headings_have_an_order_and_the_summary_is_first(page):
    levels = [int(element.tag[1]) for element in page.iter() if element.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [words(heading) for heading in page.iter("h2")] == ["Summary", "Grid", "Details"]
    assert page.find("html").get("lang") == "en"
    assert len(page.findall(".//main")) == 1
    assert page.find(".//meta[@name='viewport']") is not None


def test_cells_of_tables_have_headers(page):
    for table in page.iter("table"):
        assert words(table.find("caption"))
        assert {header.get("scope") for header in table.iter("th")} <= {"row", "col", "rowgroup", "colgroup"}
        columns = table.findall("thead/tr")[-1].findall("th")
        for row in table.findall("tbody/tr"):
            header, *cells = row
            assert header.tag == "th"
            assert header.get("scope") == "rowgroup" or len(cells) in (len(columns), len(columns) - 1)
    (grid,) = page.findall(".//table[@class='grid']")
    over, under = grid.findall("thead/tr")
    assert sum(int(header.get("colspan")) for header in over.findall("th")) == len(under.findall("th")) == 6
    assert [words(header) for header in under] == ["float32", "bfloat16", "int64"] * 2
    assert [words(group.find("tr/th")) for group in grid.findall("tbody")] == ["layers", "blocks", "models", "laws"]


def test_a_cell_says_it_in_words_and_leads_to_what_is_behind(page):
    rows = {words(row.find("th")): row.findall("td") for row in page.find(".//table[@class='grid']").iter("tr")}
    assert [words(cell) for cell in rows["attention"]] == ["✗ fail 1 of 2 12.3 1 unsupported", "≈ expected 1 of 2 12.3", ""] * 2
    assert words(rows["silu"][0]) == "! error 1 of 1"
    assert words(rows["qwen3"][0]) == "– unsupported"
    parents = {child: parent for parent in page.iter() for child in parent}
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for link in page.iter("a"):
        target = link.get("href")
        if not target.startswith("#"):
            continue
        assert ids.count(target[1:]) == 1, target
        if link.get("class") != "skip":  # browsers open the details around a target, not a target that is one
            around = page.find(f".//*[@id='{target[1:]}']")
            while around.tag != "details":
                around = parents[around]
    assert page.find(".//div[@id='layer_attention_float32']") is not None


def test_a_failure_is_told_in_full(page):
    article = next(one for one in page.iter("article") if "window-decode-f32" in words(one) and "other" in words(one))
    said = words(article)
    assert said.startswith("✗ fail (numeric): attention/window-decode-f32-w5, other 1.0")
    for part in (
        "R1 the scores are scaled R3 `window` W: exactly W keys",
        "largest error 1.23e-05 of a budget of 1e-06",
        "worst at B=0 T=1: yours 2.5, truth -1.25",
        "looks like window-plus-one: One key too many. (0.25 budgets apart)",
        "looks like a with b: Two at once. (inf budgets apart)",
        "refimpl reproduce attention/window-decode-f32-w5 --backend other.py",
    ):
        assert part in said
    assert [link.get("href") for link in article.iter("a")] == [LINK]
    (drawing,) = article.iter("svg")
    assert drawing.get("role") == "img"
    assert drawing.get("aria-label") == (
        "Errors of 46 entries in budgets: 40 within one budget, 6 beyond. "
        "30 over 1/4 up to 1/2, 10 over 1/2 up to 1, 5 over 4 up to 8, 1 over 8 up to 16."
    )
    expected = next(one for one in page.iter("article") if "window-decode-bf16" in words(one))
    assert "expected kernel 5 is wrong" in words(expected)
    error = next(one for one in page.iter("article") if "silu" in words(one))
    assert "refimpl reproduce 'silu/drawn[shape=(1,),seed=0]-f32'" in words(error)


def test_bars_have_the_heights_of_their_counts():
    drawn = Histogram(((-2, 30), (-1, 10), (2, 1)))
    assert drawn.path(beyond=False) == "M0 60v-60h10v60M12 60v-20h10v20"
    assert drawn.path(beyond=True) == "M48 60v-2h10v2"
    assert drawn.ends == ("1/4", "8 budgets")


def test_nothing_comes_from_elsewhere_and_nothing_runs(page, text):
    assert {element.tag for element in page.iter()} & {"script", "link", "img", "iframe", "object", "form"} == set()
    assert not [key for element in page.iter() for key in element.attrib if key.startswith("on") or key == "src"]
    assert "url(" not in text
    assert "@import" not in text
    policy = page.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert all(link.get("href").startswith(("#", "https://")) for link in page.iter("a"))
    assert "javascript:alert(2)" in text  # as text


def test_names_are_no_markup_and_no_template(page, text):
    shown = HOSTILE.replace("\x00", "").replace("\u202e", "")
    assert shown in words(page.find(".//h1"))
    assert shown in words(page.find(".//title"))
    assert "no <b>tables</b>" in words(page)
    assert not {"\x00", "\u202e"} & set(text)


def test_versions_of_the_specification_side_by_side_are_said(page):
    assert "different versions of the specification" in words(page.find(".//p[@role='note']"))
    assert Tree(as_html([report()])).root.find(".//p[@role='note']") is None


def test_only_the_furthest_off_are_shown_in_full():
    wrong = [replace(WRONG, share=float(number)) for number in range(2, 32)]
    many = report(results=tuple(result(f"silu/n{one.share:.0f}-any-f32", one) for one in wrong))
    page = Tree(as_html([many])).root
    assert len(page.findall(".//article")) == MOST_FAILURES
    assert "n31" in words(page.find(".//article"))
    assert "the other 22 are in its results file" in words(page)
    assert "✗ fail 2" in words(page.find(".//section"))


def test_a_page_of_three_large_reports_is_of_a_usable_size():
    results = tuple(
        result(f"l{number % 90}/variant_{number}-prefill-f32-b2t5d24", report().results[1].judgement) for number in range(1723)
    )
    assert len(as_html([report(name, results=results) for name in "abc"])) < 1_000_000
