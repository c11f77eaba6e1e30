"""The page in a real browser (mark `browser`, as tests/report/browser_test.py), on a model that is its program.

Its policy forbids `eval`, so nothing here waits for a JavaScript condition.
"""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.helpers.explore_parts import serving
from tests.helpers.export_parts import EVALUATION, run_of
from tests.helpers.interpret_parts import DYCK, small_run
from tests.helpers.interpret_perfect import perfect_of
from tracr_jax.explore.session import Explorer
from tracr_jax.export import export_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server():
    small = small_run()
    explorer = Explorer(perfect_of(small, max_positions=small.program.length))
    explorer.warm()
    with serving(explorer) as server:
        yield server


@pytest.fixture
def open_page(browser, server):
    """Opens the page and, at the end, insists that nothing was logged, thrown or fetched from elsewhere."""
    problems, contexts = [], []

    def opened(*, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: "422" in m.text or problems.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: problems.append(f"error: {e}"))
        page.on("dialog", lambda d: problems.append(f"dialog: {d.message}"))
        page.on("request", lambda r: r.url.startswith(server.url) or problems.append(f"request: {r.url[:90]}"))
        page.goto(server.url)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_fits_the_screen_in_both_themes(open_page, width, scheme):
    page = open_page(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".explorer-main td.heat").count() > 50
    page.locator("[data-role=set]").select_option("0")
    page.locator(".chip").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        "[...document.querySelectorAll('h1,h3,p,button,select,textarea,.verdict')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.textContent.slice(0, 40))"
    )
    assert cut == []


def test_a_typed_prompt_is_read_and_a_set_cell_changes_the_answer(open_page):
    page = open_page()
    page.locator("#prompt").fill(DYCK.item("([)]").prompt)
    page.locator("table.answers", has_text="yes").wait_for()
    assert "the same" in page.locator("table.answers").inner_text()
    assert page.locator("table.answers tbody tr").count() == 1
    # A click on another variable's cell, and another value for it.
    row = page.locator(".explorer-main tbody tr", has_text="[]_diffs")
    page.locator("[data-role=layer]").focus()
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    row.locator("td").nth(13).click()  # the colon, where the answer is due
    assert page.locator(".explorer-detail h3").inner_text().startswith("[]_diffs")
    assert re.match(r"\[\]_diffs_\d+ at token 13 “:”, layer 2, is set to", page.locator(".set-line").inner_text())
    page.locator("[data-role=set]").select_option(label="1")
    page.locator(".chip").wait_for()
    assert "[]_diffs" in page.locator(".chip").inner_text()
    text = page.locator("table.answers tbody tr").nth(1).inner_text()
    assert "with your change" in text
    assert "no" in text
    assert "as predicted" in text
    assert page.locator(".explorer-main td.put").count() == 1
    # The answers and the control stay in sight where the table is scrolled to.
    page.locator(".explorer-main tbody tr").last.scroll_into_view_if_needed()
    assert page.locator("table.answers").bounding_box()["y"] >= 0
    assert page.locator("[data-role=set]").bounding_box()["y"] >= 0
    page.locator(".explorer-main td.put").hover()
    assert "set by you" in page.locator("#tip").inner_text()
    page.locator("[data-role=layer]").focus()
    page.keyboard.press("End")
    assert "reads it last at layer 2" in page.locator(".unread").inner_text()
    moved = page.locator(".explorer-main td.moved").first
    moved.hover()
    assert "before: " in page.locator("#tip").inner_text()
    page.locator(".chip").click()
    page.locator(".chip").wait_for(state="detached")
    assert page.locator("table.answers tbody tr").count() == 1
    assert page.locator(".explorer-main td.moved").count() == 0


def test_what_cannot_be_set_says_why_and_what_cannot_be_read_is_one_line(open_page):
    from playwright.sync_api import expect  # not in the dev extra: collected by every run of the tests

    page = open_page()
    page.locator("[data-role=layer]").focus()
    page.keyboard.press("Home")
    assert "cannot be set at layer 0: the program writes it at layer" in page.locator(".set-line").inner_text()
    page.locator("#prompt").fill("")
    page.locator(".status.bad").wait_for()
    assert page.locator(".status").inner_text() == "the prompt is empty"
    page.locator("#prompt").fill("(" * 50)
    page.locator(".status", has_text="shorten it").wait_for()
    page.locator("#prompt").fill("()")
    # Not by `.stale`, which comes only when the page asks: until then nothing is stale, and the old line stands.
    expect(page.locator(".status")).to_have_text("")
    page.locator(".stale").wait_for(state="detached")


def test_markup_in_a_prompt_stays_text(open_page):
    page = open_page()
    page.locator("#prompt").fill("<b>(")
    page.locator(".explorer-main thead", has_text="<").wait_for()
    assert page.locator(".explorer-main b, .chips b, table.answers b b").count() == 0


def test_an_example_is_chosen_and_keys_reach_the_cells(open_page):
    page = open_page()
    page.locator("[data-role=example]").select_option("1")
    assert page.locator("#prompt").input_value() == small_run().program.examples[1].prompt
    page.locator(".explorer-main td[tabindex='0']").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.locator(".explorer-detail h3").inner_text().endswith("over the layers")


def test_ctrl_c_ends_the_command(tmp_path):
    folder = export_run(run_of("gpt2"), tmp_path / "export", evaluation=EVALUATION)
    command = [sys.executable, "-m", "tracr_jax", "explore", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if "Ctrl-C ends it" in line).startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.endswith("ended\n")
    assert err == ""
