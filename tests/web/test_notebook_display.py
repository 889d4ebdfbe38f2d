"""Results in a notebook: drawn by the page's own scripts, apart from all else, and without them."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import expect
from workbench import evaluated

import factlab as fl
from factlab.pages.inlined import STATIC, VIEW_SCRIPTS
from factlab.tracing.document import average_document, trace_document

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
FEW = fl.tracing.TraceConfig(samples=2, window=2)
# What a notebook around it may do to all that it shows.
AROUND = "<style>p, td, canvas { display: none } .maps { color: red }</style>"


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", seed=1)


@pytest.fixture
def traces(lm):
    prompts = {"See the Space Needle is in": "Space Needle", "To see Big Ben go to": "Big Ben"}
    return [fl.causal_trace(lm, text, subject, config=FEW) for text, subject in prompts.items()]


@pytest.fixture
def average(lm):
    facts = [fl.Fact("{} is in the city of", each) for each in ("Space Needle", "Big Ben", "Rome")]
    return fl.average_trace(lm, facts, FEW)


@pytest.fixture
def shown(tmp_path):
    """Results as a notebook that was written to disk has them: the page, to be opened."""

    def show(*results) -> str:
        body = "".join(f"<div>{one._repr_html_()}</div>" for one in results)
        page = tmp_path / "notebook.html"
        page.write_text(f'<!doctype html><meta charset="utf-8">{AROUND}<body>{body}', "utf-8")
        return page.as_uri()

    return show


# Goes through a map by keys, from its first cell on, and gives what it says of each.
WALK = """(figure, [nRows, nLayers]) => {
  const canvas = figure.querySelector("canvas");
  const press = (key, n) => {
    for (; n; n--) canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
    return figure.querySelector(".readout").textContent;
  };
  press("ArrowUp", 1 + nRows);
  return Array.from({ length: nRows }, (_, row) => {
    press("ArrowDown", row && 1);
    press("ArrowLeft", nLayers);
    return Array.from({ length: nLayers }, (_, layer) => press("ArrowRight", layer && 1));
  });
}"""


def test_a_map_says_the_numbers_of_its_trace(traces, shown, window):
    page, trace = window.page, traces[0]
    page.goto(shown(trace))
    frame = page.frame_locator("iframe")
    expect(frame.locator("figure.map")).to_have_count(3)
    document = trace_document(trace)
    for number, kind in enumerate(document["effects"]):
        effects = document["effects"][kind]
        told = frame.locator("figure.map").nth(number).evaluate(WALK, [len(effects), 3])
        for label, row, texts in zip(document["labels"], effects, told, strict=True):
            for layer, (effect, text) in enumerate(zip(row, texts, strict=True)):
                pattern = r"“(.*)”, layer (\d+): p (\S+), effect (\S+), (\d+) % restored"
                found = re.fullmatch(pattern, text)
                assert found is not None
                assert (found[1], int(found[2])) == (label, layer)
                assert float(found[3]) == pytest.approx(trace.corrupted_prob + effect, rel=0.01)
                assert float(found[4]) == pytest.approx(effect, rel=0.06, abs=1e-6)
                share = 100 * max(0.0, effect) / trace.total_effect
                assert int(found[5]) == pytest.approx(share, abs=0.51)

    canvas = frame.locator("canvas").first
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 10)
    expect(frame.locator(".readout").first).to_contain_text(
        f"“{trace.token_labels[0]}”, layer 2: p"
    )
    theme = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'")
    expect(frame.locator("html")).to_have_attribute("data-theme", theme)
    # Of a narrow one the maps are moved sideways, not the frame.
    assert page.frames[1].evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_in_one_notebook_do_not_meet(traces, shown, wide_window):
    page = wide_window.page
    page.goto(shown(*traces, traces[0]))
    for number, trace in enumerate((*traces, traces[0])):
        frame = page.frame_locator("iframe").nth(number)
        expect(frame.locator("figure.map")).to_have_count(3)
        (answer,) = frame.locator(".lead b").all_inner_texts()
        assert answer == f"“{trace.answer}”"
    assert page.evaluate("typeof factlab") == "undefined"
    # A frame can reach nothing of the notebook.
    assert (
        page.frames[1].evaluate("() => { try { return parent.document } catch { return 0 } }") == 0
    )


def at_rest(page):
    """A picture of a page that draws nothing any more: pictures in it are decoded after it loads."""
    before = None
    while (now := Image.open(BytesIO(page.screenshot())).convert("L")) != before:
        before = now
        page.wait_for_timeout(500)
    return now


def test_without_scripts_words_and_picture_show(traces, shown, browser, tmp_path):
    shown(traces[0])
    page = (tmp_path / "notebook.html").read_text("utf-8")
    assert page.count('sandbox="allow-scripts"') == 1
    looks = {}
    window = browser.new_page()
    for scripts in (True, False):
        # As a browser in which scripts are off: a frame without leave to run them.
        made = page if scripts else page.replace('sandbox="allow-scripts"', 'sandbox=""')
        for framed in (True, False):
            file = tmp_path / "made.html"
            hidden = made.replace("<iframe ", "<iframe hidden class=off ").replace(
                AROUND, f"{AROUND}<style>.off {{ visibility: hidden; display: block }}</style>"
            )
            file.write_text(made if framed else hidden, "utf-8")
            window.goto(file.as_uri())
            assert window.locator("pre").inner_text() == repr(traces[0])
            assert window.locator("img").bounding_box()["width"] > 300
            if scripts and framed:
                expect(window.frame_locator("iframe").locator("figure.map")).to_have_count(3)
            looks[scripts, framed] = at_rest(window)
    window.close()
    apart = {
        scripts: ImageStat.Stat(
            ImageChops.difference(looks[scripts, True], looks[scripts, False])
        ).mean[0]
        for scripts in (True, False)
    }
    assert apart[False] < 0.5  # of 255: the frame is of glass
    assert apart[True] > 2


def test_an_average_tells_its_intervals(average, shown, wide_window):
    page = wide_window.page
    page.goto(shown(average))
    frame = page.frame_locator("iframe")
    expect(frame.locator("figure.map")).to_have_count(3)
    document = average_document(average)
    told = frame.locator("figure.map").nth(1).evaluate(WALK, [6, 3])
    for group, texts in enumerate(told):
        for layer, text in enumerate(texts):
            if document["effects"]["mlp"][group][layer] is None:
                assert text == f"{document['labels'][group]}, layer {layer}: not traced"
                continue
            assert text.startswith(f"{document['labels'][group]}, layer {layer}: mean effect ")
            mean, width = re.search(r"effect (\S+) ± (\S+) of", text).groups()
            of_cell = [document[name]["mlp"][group][layer] for name in ("effects", "half_widths")]
            assert [float(mean), float(width)] == pytest.approx(of_cell, rel=0.06, abs=1e-6)
            assert text.endswith(f" of {average.group_counts[group]} facts")
    expect(page.locator("img")).to_have_count(2)  # below stands what has bands


TAGS = {"div", "pre", "img", "iframe", "table", "caption", "tr", "th", "td", "p", "small"}


class Elements(HTMLParser):
    """The elements of a text, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.attributes = list[str](), list[tuple[str, str | None]]()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def given(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


@pytest.fixture
def results(lm, traces, average, tmp_path):
    """One of each kind that people look at, with texts that would be markup."""
    trace = dataclasses.replace(
        traces[0], tokens=(EVIL, *traces[0].tokens[1:]), prompt=EVIL, answer=EVIL
    )
    fact, config = (
        fl.Fact("{} is " + EVIL, "Rome", EVIL, "Paris"),
        fl.editing.FineTuneConfig(layer=1, steps=1),
    )
    edited = fl.editing.edit_fact(lm, fact, "ft", config)
    edited = dataclasses.replace(edited, after=((EVIL, 0.5), *edited.after[1:]))
    made = fl.edit_each(lm, [fact], "ft", config)
    evaluated(lm, tmp_path / "run")
    run = fl.evaluation.load_run(tmp_path / "run")
    report = fl.report([run], labels=[EVIL])
    return [trace, average, edited.edit, edited, made, run, report]


def test_nothing_of_a_model_is_markup_and_nobody_is_asked(results, shown, wide_window):
    for result in results:
        drawn = result._repr_html_()
        outer = Elements(drawn)
        inner = Elements("".join(outer.given("srcdoc")))
        assert {*outer.names} <= TAGS
        assert {*inner.names} <= {
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "script",
        }
        assert all(each.startswith("data:image/png;base64,") for each in outer.given("src"))
        assert not [*inner.given("src"), *inner.given("href"), *outer.given("href")]
        for text in (drawn, *outer.given("srcdoc")):
            assert not re.search(r"https?:|@import|url\(|\bfetch\(|XMLHttpRequest", text)
    page = wide_window.page
    dialogs = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    page.context.set_offline(True)
    page.goto(shown(*results))
    expect(page.frame_locator("iframe").nth(0).locator(".lead b")).to_have_text(f"“{EVIL}”")
    expect(page.frame_locator("iframe").nth(1).locator("figure.map")).to_have_count(3)
    assert not dialogs


def test_every_script_is_in_a_page():
    named = re.findall(r'src="static/js/(\w+)\.js"', (STATIC / "index.html").read_text("utf-8"))
    there = {path.stem for path in (STATIC / "js").iterdir()}
    assert {*named, "view"} == {*named, *VIEW_SCRIPTS} == there


def test_a_document_has_no_numbers_that_json_lacks(lm, shown, wide_window):
    config = FEW.model_copy(update={"positions": "last_subject", "layers": (1,)})
    trace = fl.causal_trace(lm, "See the Space Needle is in", "Space Needle", config=config)
    assert "NaN" not in json.dumps(trace_document(trace), allow_nan=False)
    page = wide_window.page
    page.goto(shown(trace))
    canvas = page.frame_locator("iframe").locator("canvas").first
    canvas.press("ArrowUp")
    canvas.press("ArrowLeft")
    told = page.frame_locator("iframe").locator(".readout").first
    expect(told).to_contain_text("not traced")
