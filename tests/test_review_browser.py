"""The review page in a real browser: a headless Chromium on the app, served on this machine."""

import shutil
from pathlib import Path

import pytest

from tests.reviewing import Stage, answers, drawn, scored

CHROMIUM = next((path for path in ("/usr/bin/chromium", shutil.which("chromium"), shutil.which("google-chrome"))
                 if path and Path(path).exists()), None)
try:
    from playwright.sync_api import expect, sync_playwright
except ImportError as error:
    pytest.skip(f"playwright is not installed ({error})", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]

PHONE = {"width": 360, "height": 740}
EVIL = ('</div><script>document.title="taken"</script>'
        '<img src="http://evil.example/x" onerror="document.title=\'taken\'"><style>*{display:none}</style>')


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.store.add_scores(answers())
    drawn(stage.store, "s0", "s3", "s1", "s5", "s2", "s7")
    with stage.served() as address:
        stage.address = f"{address}/review"
        yield stage
    stage.close()


@pytest.fixture
def opened(chromium, stage):
    """Opens the page; at the end, nothing may have been complained about, and nothing asked of another place."""
    said, asked, contexts = [], [], []

    def opening(address="", **how):
        context = chromium.new_context(**how)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(stage.address + address)
        return tab

    yield opening
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith((stage.address, "data:")) for url in asked)


def press(tab, key):
    """A key, and the page that it leads to."""
    with tab.expect_navigation():
        tab.keyboard.press(key)


def test_five_answers_by_keys_alone_with_a_correction_and_an_undo(stage, opened):
    tab = opened()
    expect(tab.get_by_role("heading", name="Is the LLM right?")).to_be_focused()
    expect(tab.get_by_role("link", name="Sample 6 left")).to_have_attribute("aria-current", "page")
    press(tab, "y")
    expect(tab.get_by_role("status")).to_have_text("Saved: “negative”.")
    press(tab, "1")  # corrected
    expect(tab.get_by_role("status")).to_have_text("Saved: “negative”.")
    press(tab, "2")  # what the LLM says, by its number
    press(tab, "u")
    expect(tab.get_by_role("status")).to_have_text("Taken back: “positive”.")
    press(tab, "1")
    press(tab, "s")
    press(tab, "Y")
    press(tab, "y")
    expect(tab.get_by_role("heading", name="Nothing waits here")).to_be_visible()
    expect(tab.get_by_role("link", name="Sample 1 left")).to_be_visible()
    assert [(row[0], row[1], row[5]) for row in stage.labels()] == [
        ("s0", "negative", False), ("s3", "negative", False), ("s1", "positive", False), ("s1", "", True),
        ("s1", "negative", False), ("s2", "negative", False), ("s7", "positive", False)]


def test_keys_can_be_turned_off_and_are_no_keys_where_one_writes(stage, opened):
    tab = opened()
    tab.keyboard.press("Control+y")
    tab.get_by_text("Filters").click()
    tab.get_by_label("Risk from").press("1")
    tab.get_by_label("Single keys choose").uncheck()
    tab.get_by_role("heading", name="Is the LLM right?").click()
    tab.keyboard.press("y")
    tab.reload()
    expect(tab.get_by_label("Single keys choose")).not_to_be_checked()
    tab.keyboard.press("y")
    tab.wait_for_timeout(300)
    assert stage.labels() == []
    tab.get_by_label("Single keys choose").check()
    press(tab, "y")
    assert len(stage.labels()) == 1


def test_every_control_is_reached_by_tab_and_shows_that_it_is(stage, opened):
    tab = opened(viewport={"width": 1280, "height": 900})
    seen = []
    tab.keyboard.press("Shift+Tab")
    for _ in range(30):
        tab.keyboard.press("Tab")
        name, outline = tab.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
            return [e === document.body ? "" : e.getAttribute("aria-label") || e.innerText || e.id,
                    s.outlineStyle + s.outlineWidth] }""")
        seen.append(name)
        assert outline == "solid3px" or not name, name
    for name in ("The text", "Yes, it is right", "positive", "Skip", "As a table", "Filters"):
        assert any(each.startswith(name) for each in seen), (name, seen)
    tab.get_by_role("button", name="Yes, it is right").focus()
    press(tab, "Enter")
    assert len(stage.labels()) == 1


def test_a_double_click_and_going_back_lose_and_add_no_label(stage, opened):
    stage.inner.state.reviews._quickest = 0.3
    tab = opened()
    tab.wait_for_timeout(350)
    with tab.expect_navigation():
        tab.get_by_role("button", name="Yes, it is right").dblclick(no_wait_after=True)
    tab.wait_for_timeout(600)
    assert [row[:2] for row in stage.labels()] == [("s0", "negative")]
    tab.go_back()
    tab.wait_for_timeout(200)
    tab.reload()
    assert [row[:2] for row in stage.labels()] == [("s0", "negative")]
    tab.get_by_role("button", name="Yes, it is right").click()
    expect(tab.get_by_role("status")).to_contain_text("Saved")
    assert [row[:2] for row in stage.labels()] == [("s0", "negative"), ("s3", "positive")]


def test_it_works_without_scripts(stage, opened):
    tab = opened(java_script_enabled=False)
    assert not tab.get_by_label("Single keys choose").is_visible()
    tab.get_by_role("button", name="negative").or_(tab.get_by_role("button", name="positive")).first.click()
    expect(tab.get_by_role("status")).to_contain_text("Saved")
    tab.get_by_role("button", name="Undo the last label").click()
    expect(tab.get_by_role("status")).to_contain_text("Taken back")
    assert [row[5] for row in stage.labels()] == [False, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways_and_all_can_be_tapped(stage, opened, scheme):
    stage.store.add_scores([scored(0, "W" * 3_000, score_id="slong", item_id="i" * 200, risk=0.99,
                                   votes={"a_source_with_a_long_name_" * 3: "negative"})])
    tab = opened("?queue=riskiest", viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for button in tab.get_by_role("button").all():
        box = button.bounding_box()
        assert box is None or box["height"] >= 44 or "link" in (button.get_attribute("class") or "")
    tab.get_by_role("button", name="Yes, it is right").tap()
    expect(tab.get_by_role("status")).to_contain_text("Saved")
    assert [row[0] for row in stage.labels()] == ["slong"]


CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const lin = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => .2126 * lin(c[0]) + .7152 * lin(c[1]) + .0722 * lin(c[2]), found = [];
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c } return [255, 255, 255] };
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (["SCRIPT", "OPTION", "TITLE"].includes(e.tagName)) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push([e.tagName, e.innerText, ratio]);
  } return found }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_in_light_and_dark(stage, opened, scheme):
    tab = opened(color_scheme=scheme)
    tab.get_by_text("Filters").click()
    press(tab, "y")
    assert tab.evaluate(CONTRAST) == []
    tab.goto(f"{stage.address}?login=1")
    assert tab.evaluate(CONTRAST) == []


def test_a_text_full_of_scripts_is_inert(stage, opened):
    stage.store.add_scores([scored(0, EVIL, (EVIL, "positive"), score_id="sevil", item_id=EVIL, risk=0.99,
                                   votes={EVIL: EVIL}, spans=((3, 40),))])
    tab = opened("?queue=riskiest")
    expect(tab.get_by_role("region", name="The text")).to_contain_text(EVIL[40:])
    expect(tab.get_by_role("region", name="The text")).to_be_visible()
    assert tab.title() == "Review: Riskiest · polarscore"
    tab.get_by_text("Filters").click()
    tab.get_by_label("The LLM says").select_option("positive")
    press(tab, "y")
    assert tab.title() == "Review: Riskiest · polarscore" and stage.labels()[0][1] == EVIL


def test_a_class_that_is_typed_is_the_one_that_is_saved(stage, opened):
    """Enter sends what the field says, not the answer of the button before it."""
    classes = tuple(f"class {number}" for number in range(12))
    stage.store.add_scores([scored(number, "A text", classes, score_id=f"m{number}", risk=0.99) for number in (0, 1)])
    tab = opened("?queue=riskiest")
    tab.keyboard.press("/")
    expect(tab.get_by_label("One of 12 classes")).to_be_focused()
    tab.keyboard.insert_text("class 7")
    press(tab, "Enter")
    expect(tab.get_by_role("status")).to_have_text("Saved: “class 7”.")
    press(tab, "y")
    expect(tab.get_by_role("status")).to_have_text("Saved: “class 1”.")
    assert [row[:2] for row in stage.labels()] == [("m0", "class 7"), ("m1", "class 1")]


def test_a_link_of_another_site_finds_the_reviewer_signed_in(chromium, stage):
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(f"{stage.address}?login=1")
    tab.get_by_label("API key").fill(stage.key("anna", "review"))
    press(tab, "Enter")
    for name in ("anna", "local"):
        expect(tab.get_by_text(f"Reviewer {name}")).to_be_visible()
        tab.route("http://chat.example/*", lambda route: route.fulfill(
            content_type="text/html", body=f'<a href="{stage.address}?queue=second">look</a>'))
        tab.goto("http://chat.example/")
        tab.get_by_text("look").click()
        expect(tab.get_by_text(f"Reviewer {name}")).to_be_visible()
        expect(tab.get_by_role("link", name="Second opinion")).to_have_attribute("aria-current", "page")
        if name == "anna":
            tab.get_by_role("button", name="Sign out").click()
    context.close()


def test_the_policy_keeps_a_browser_from_running_anything_else(chromium, stage):
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(stage.address)
    tab.evaluate("""() => { const s = document.createElement("script"); s.textContent = "document.title='taken'";
        document.body.append(s); document.body.insertAdjacentHTML("beforeend",
        "<img src=x onerror=document.title='taken'><p id=styled style='color:red'>x</p>") }""")
    tab.wait_for_timeout(200)
    assert tab.title() != "taken"
    assert tab.evaluate("getComputedStyle(styled).color") != "rgb(255, 0, 0)"
    context.close()


def test_what_turns_the_direction_stays_in_its_place(stage, opened):
    stage.store.add_scores([scored(0, "שלום \u202e evil", score_id="sbidi", item_id="\u202eabc", risk=0.99)])
    tab = opened("?queue=riskiest")
    text = tab.get_by_role("region", name="The text")
    expect(text).to_contain_text("⟨U+202E⟩ evil")
    assert tab.evaluate("getComputedStyle(document.querySelector('.text')).direction") == "rtl"
    assert tab.evaluate("getComputedStyle(document.querySelector('.said')).direction") == "ltr"


def test_names_and_roles(stage, opened, monkeypatch):
    monkeypatch.setattr("serving.review_bins.FRESH_S", 0.0)
    monkeypatch.setattr("serving.review_bins.COST", 0.0)
    tab = opened()
    snapshot = tab.locator("body").aria_snapshot()
    for line in ('- link "Skip to the answer"', "- banner:", '- navigation "What to review":', "- main:",
                 '- article "Is the LLM right?":', '- heading "Is the LLM right?" [level=1]',
                 '- region "The text":', '- button "Yes, it is right"', '- group "No, the right one is":',
                 '- complementary "What is known":', '- region "What the harmonizer thinks":',
                 '- heading "What the sources say" [level=2]', 'img "Reliability of version 4:', '- button "Skip"'):
        assert line in snapshot, (line, snapshot)
    tab.get_by_text("As a table").click()
    press(tab, "y")
    tab.get_by_text("As a table").click()
    stage.labels()
    for _ in range(3):  # the plot is made meanwhile, and the last one has its table
        tab.reload(wait_until="networkidle")
    tab.get_by_text("As a table").click()
    expect(tab.get_by_role("table")).to_contain_text("0.9–1.0")


def test_a_key_opens_the_page_and_closes_it(stage, opened):
    key = stage.key("anna", "review")
    tab = opened()
    tab.get_by_role("link", name="Sign in with a key").click()
    expect(tab.get_by_label("API key")).to_be_focused()
    tab.keyboard.insert_text(key)
    press(tab, "Enter")
    expect(tab.get_by_text("Reviewer anna")).to_be_visible()
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in tab.context.cookies()] == [(True, "Strict")]
    press(tab, "y")
    assert stage.labels() == [("s0", "negative", "anna", "risk", True, False)]
    tab.get_by_role("button", name="Sign out").click()
    expect(tab.get_by_text("Reviewer local")).to_be_visible()


def test_the_plot_shows_in_the_page_and_motion_is_as_one_wants(stage, opened):
    tab = opened(reduced_motion="reduce")
    assert tab.evaluate("document.querySelector('img.plot').naturalWidth") == 296
    assert tab.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
