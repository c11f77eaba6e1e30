"""The page in a real browser: headless Chromium from the system's packages, driven by playwright (mark `browser`).

apt-get install -y chromium && pip install playwright && pytest -m browser
"""

import pytest

from tests.helpers.report_data import LAYERS, NAMES, make_run
from tracr_jax.report.page import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One run, two runs with a baseline, and a run of which nothing else is there."""
    root = tmp_path_factory.mktemp("browser")
    one, two = make_run(root / "one"), make_run(root / "two", seed=1, quality=0.8)
    tuned = make_run(root / "tuned", seed=2, baseline=True)
    every = ("run.json", "evaluation.json", "retention.json", "interpretation.json", "metrics.jsonl")
    bare = make_run(root / "bare", leave_out=every)
    return {
        "one": write_report([one]),
        "several": write_report([one, two, tuned], out=root / "several.html"),
        "bare": write_report([bare]),
    }


@pytest.fixture
def open_page(browser, pages):
    """Opens a page and, at the end, insists that nothing was logged, thrown or fetched."""
    problems, contexts = [], []

    def opened(name, *, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        address = pages[name].as_uri()
        page.on("console", lambda m: problems.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: problems.append(f"error: {e}"))
        page.on("dialog", lambda d: problems.append(f"dialog: {d.message}"))
        page.on("request", lambda r: r.url == address or problems.append(f"request: {r.url[:90]}"))
        page.goto(address)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.mark.parametrize("name", ["one", "several", "bare"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_opens_from_disk_quietly_and_never_wider_than_the_screen(open_page, name, width, scheme):
    page = open_page(name, width=width, scheme=scheme)
    page.wait_for_timeout(150)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("section").count() >= 10
    if name == "one":
        assert page.locator("#losses svg path.line").count() == 4
        assert page.locator("#noise svg path.line").count() == 3
        assert page.locator("#scorecard td.heat").count() > 50
    # No text is wider than the place it is given, outside of what scrolls on purpose.
    cut = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,p,dd,figcaption,.set-name')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.textContent.slice(0, 40))"
    )
    assert cut == []


def test_a_narrow_screen_shows_the_last_layer_and_that_there_are_others(open_page):
    page = open_page("one", width=390)
    grid = page.locator("#scorecard .grid").first
    right = "getBoundingClientRect().right"
    inside = f"g => [...g.querySelectorAll('thead th')].at(-1).{right} <= g.{right} + 1"
    hides = grid.evaluate("g => g.scrollWidth > g.clientWidth + 2")
    assert grid.evaluate(inside)
    classes = lambda: set(grid.get_attribute("class").split()) & {"cut-left", "cut-right"}  # noqa: E731
    if hides:
        assert classes() == {"cut-left"}
        grid.evaluate("g => (g.scrollLeft = 0)")
        page.wait_for_timeout(100)
        assert classes() == {"cut-right"}
        style = "g => getComputedStyle(g).maskImage || getComputedStyle(g).webkitMaskImage"
        assert "gradient" in grid.evaluate(style)
    wide = open_page("one", width=1280)
    assert not wide.locator("#scorecard .grid.cut-left, #scorecard .grid.cut-right").count()


def grid_text(page):
    return page.locator(".explorer-main tbody").inner_text()


def test_the_layer_control_changes_what_is_shown(open_page):
    page = open_page("one")
    last = grid_text(page)
    slider = page.locator("[data-role=layer]")
    assert slider.input_value() == str(LAYERS - 1)
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator(".explorer-head h3").inner_text() == f"Layer 0 of {LAYERS - 1}"
    first = grid_text(page)
    assert first != last
    # Nothing but tokens and indices is written at layer 0: all else is a dot.
    row = page.locator(".explorer-main tbody tr", has_text="final_result_1").locator("td")
    assert set(row.all_inner_texts()) == {"·"}
    for _ in range(LAYERS - 1):
        page.get_by_role("button", name="one layer up").click()
    assert grid_text(page) == last


def test_a_click_on_a_cell_shows_that_variable_over_the_layers(open_page):
    page = open_page("one")
    assert page.locator(".explorer-detail h3").inner_text() == "final_result_1 over the layers"
    row = NAMES.index("(_diffs")
    page.locator(".explorer-main tbody tr").nth(row).locator("td").nth(5).click()
    assert page.locator(".explorer-detail h3").inner_text() == "(_diffs over the layers"
    assert "Token 5 “(”" in page.locator(".explorer-detail p").inner_text()
    assert page.locator(".explorer-detail tbody tr").count() == LAYERS
    assert page.locator(".explorer-main td.chosen").count() == 1
    # And back from a layer of that table to the whole prompt at that layer.
    page.locator(".explorer-detail tbody tr").nth(3).locator("td").nth(2).click()
    assert page.locator("[data-role=layer]").input_value() == "3"


def test_arrow_keys_reach_every_cell_and_enter_opens_it(open_page):
    page = open_page("one")
    grid = page.locator(".explorer-main table[role=grid]")
    assert grid.locator("td[tabindex='0']").count() == 1  # one stop for the tab key
    grid.locator("td[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    where = page.evaluate("[document.activeElement.parentNode.rowIndex - 1, document.activeElement.cellIndex - 1]")
    assert where == [2, 1]
    style = page.evaluate(
        "(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))"
    )
    assert style[0] == "solid"
    assert style[1] >= 2
    assert NAMES[2] in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    assert page.locator(".explorer-detail h3").inner_text() == f"{NAMES[2]} over the layers"
    assert page.evaluate("document.activeElement.parentNode.rowIndex - 1") == 2  # the focus stays
    page.keyboard.press("Control+End")
    assert page.evaluate("document.activeElement === [...document.querySelectorAll('.explorer-main td')].at(-1)")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_wrong_values_have_an_edge_and_a_sign(open_page):
    page = open_page("one")
    wrong = page.locator(".explorer-main td.wrong").first
    assert page.evaluate("e => getComputedStyle(e, '::after').content", wrong.element_handle()) == '"≠"'
    assert "rgb" in page.evaluate("e => getComputedStyle(e).boxShadow", wrong.element_handle())
    wrong.hover()
    assert "the program has:" in page.locator("#tip").inner_text()


def test_markup_in_a_prompt_stays_text(open_page):
    page = open_page("one")
    page.locator("[data-role=example]").select_option(index=4)
    shown = page.locator(".prompt-text").inner_text()
    assert "<script>alert('&lt;')</script>" in shown
    assert page.locator(".prompt script, .grid script").count() == 0
    assert "\\u202e" in page.locator(".explorer-main thead").inner_text()  # a sign that would turn the line around


def test_the_scorecard_follows_its_controls(open_page):
    page = open_page("several")
    body = page.locator("#scorecard .places tbody")
    assert body.count() == 2
    before = body.nth(1).inner_text()
    page.locator("#scorecard [data-role=class]").select_option("answer")
    answer = body.nth(1).inner_text()
    assert answer != before
    page.locator("#scorecard [data-role=set]").select_option("length_ood")
    assert body.nth(1).inner_text() != answer
    assert "12 values" in page.locator("#scorecard .count").inner_text()
    page.locator("#scorecard [data-role=shown]").select_option("probe")
    cell = page.locator("#scorecard td.heat").first
    cell.hover()
    tip = page.locator("#tip").inner_text()
    assert "majority rate" in tip
    assert "probe of the untouched model" in tip


def test_a_swap_cell_tells_its_controls_and_ceiling(open_page):
    page = open_page("one")
    page.locator("#swaps td.heat").first.hover()
    tip = page.locator("#tip").inner_text()
    for part in (
        "predicts",
        "random direction",
        "everything but",
        "another variable",
        "without any swap",
        "ceiling",
    ):
        assert part in tip
    # A control that was not measured (null) is left out.
    page.locator("#swaps tr", has_text="indices").locator("td.heat").first.hover()
    tip = page.locator("#tip").inner_text()
    assert "everything but" in tip
    assert "another variable" not in tip


def test_curves_are_read_by_keyboard(open_page):
    page = open_page("one")
    page.keyboard.press("Tab")  # focus is visible from here on
    pad = page.locator("#noise .pad")
    pad.focus()
    page.keyboard.press("Home")
    assert "strength of the noise 0" in page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    tip = page.locator("#tip").inner_text()
    assert "strength of the noise 5" in tip
    assert tip.count("%") == 3


def test_both_themes_render_and_the_button_changes_them(open_page):
    colours = {}
    for scheme in ("light", "dark"):
        page = open_page("one", scheme=scheme)
        ground = "getComputedStyle(document.body).backgroundColor"
        colours[scheme] = page.evaluate(ground)
        cell = page.evaluate("getComputedStyle(document.querySelector('#scorecard td.heat')).backgroundColor")
        page.locator("#theme").click()
        other = page.evaluate(ground)
        assert other != colours[scheme]
        after = page.evaluate("getComputedStyle(document.querySelector('#scorecard td.heat')).backgroundColor")
        assert cell != after
        page.locator("#theme").click()
        assert page.evaluate(ground) == colours[scheme]
    assert colours["light"] != colours["dark"]


def test_text_has_enough_contrast(open_page):
    """WCAG's 4.5 to 1 for every kind of running text, 3 to 1 inside coloured cells, in both themes."""
    ratio = """(selector) => {
      const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
      const rgb = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data]; };
      const light = (c) => c.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) {
        const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } };
      return Math.min(...[...document.querySelectorAll(selector)].map((e) => {
        const style = getComputedStyle(e);
        const [a, b] = [light(rgb(e instanceof SVGElement ? style.fill : style.color)), light(ground(e))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      }));
    }"""
    for scheme in ("light", "dark"):
        page = open_page("several", scheme=scheme)
        for selector in (".reading", ".how", ".verdict", "small", ".tick-text", ".end-text", ".grid th", "code"):
            assert page.evaluate(ratio, selector) >= 4.5, (scheme, selector)
        assert page.evaluate(ratio, ".grid td.heat") >= 3.0, scheme
