"""The page of reports in a headless browser, where there is one: the extra `browser`, and Chromium or one of its kin."""

from __future__ import annotations

import os
import shutil

import pytest

from conformance import files
from conformance.page import as_html
from tests.conformance.made_reports import HOSTILE, report

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome", "chromium-browser")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `browser`)")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as driver:
        if found is None and not os.path.exists(driver.chromium.executable_path):
            pytest.skip(f"needs a browser: {', '.join(BROWSERS)}, or `playwright install chromium`")
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the page and, in the end, has found nothing on the console and nothing asked for elsewhere."""
    files.write(as_html([report(HOSTILE), report("other")]), tmp_path / "page.html")
    address, heard, tabs = (tmp_path / "page.html").as_uri(), [], []

    def open_page(**options):
        tabs.append(browser.new_page(**options))
        tabs[-1].on("console", lambda message: heard.append(message.text))
        tabs[-1].on("pageerror", lambda error: heard.append(str(error)))
        tabs[-1].on("request", lambda request: request.url.startswith(address) or heard.append(request.url))
        tabs[-1].goto(address)
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.close()
    assert heard == []


def test_the_keyboard_opens_what_is_behind_a_cell(opened):
    tab = opened()
    cell = tab.get_by_role("row", name="attention").get_by_role("link", name="✗ fail 1 of 2").first
    assert cell.is_visible()
    article = tab.locator("article", has_text="attention/window-decode-f32-w5").last
    assert not article.is_visible()
    while not cell.evaluate("link => link === document.activeElement"):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    article.wait_for(state="visible")
    assert tab.url.endswith("#layer_attention_float32")
    assert tab.locator("details[open]").count() == 1
    assert article.get_by_role("img").bounding_box()["width"] > 50
    summary = tab.locator("details", has=tab.locator("#layer_silu_float32")).locator("summary")
    summary.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#layer_silu_float32 article").first.is_visible()


def test_rows_without_failures_can_be_put_aside(opened):
    tab = opened()
    fine, wrong = (tab.locator(".grid").get_by_role("row", name=name) for name in ("decoder_layer", "attention"))
    assert fine.is_visible()
    tab.get_by_label("only rows in which something fails").press("Space")
    assert not fine.is_visible()
    assert wrong.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(opened, scheme):
    tab = opened(color_scheme=scheme)
    for place in ("h1", ".grid td.fail a", ".grid td.expected a", ".grid td.pass a", ".grid td.unsupported a", "caption"):
        assert tab.locator(place).first.evaluate(CONTRAST) >= 4.5, place


def test_a_narrow_screen_scrolls_tables_alone(opened):
    tab = opened(viewport={"width": 360, "height": 700})
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


# Of an element: the contrast of its text with the first background behind it, as WCAG counts it.
CONTRAST = """element => {
  const light = colour => {
    const linear = x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(x => linear(x / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
  const pair = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)].sort((a, b) => b - a);
  return (pair[0] + .05) / (pair[1] + .05);
}"""
