"""A human study as a rater goes through it, in a page that was opened from a file."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Download, Page, expect

import factlab as fl
from factlab.human.key import HumanStudy
from human_studies import text_of, wrote
from saved_rows import GOOD, make_row, save_run

EVIL = "</script><script>window.caught = 1</script><img src=x onerror='window.caught = 1'>"
QUESTIONS = {
    "consistent": ("MOST consistent with the made-up fact", "LEAST consistent with the made-up fact"),
    "fluent": ("MOST fluent", "LEAST fluent"),
}  # fmt: skip
BEST = {"consistent": [1, 2, 0], "fluent": [0, 1, 2]}


@pytest.fixture
def study(tmp_path) -> HumanStudy:
    """Six items by three methods; three raters see four each. One method writes markup."""
    runs = []
    for method in ("zq-one", "zq-two", "zq-three"):
        end = EVIL if method == "zq-two" else ""
        rows = [wrote(make_row(i, GOOD, method), [text_of(method, i, 0) + end]) for i in range(6)]
        runs.append(fl.evaluation.load_run(save_run(tmp_path / method, rows, method)))
    config = fl.human.HumanConfig(items=6, per_rater=4, raters=3, contact="Ada <b>Example</b>")
    return fl.human.make_human_study(runs, tmp_path / "study", config)


class Rater:
    """Somebody who knows what wrote what, and ranks by it."""

    def __init__(self, page: Page, study: HumanStudy, number: int) -> None:
        self.page, self.study, self.number = page, study, number

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def choose(self, question: str, letter: str) -> None:
        group = self.page.get_by_role("group", name=question, exact=True)
        group.get_by_role("radio", name=f"Passage {letter}").check()

    def chosen(self) -> int:
        return self.page.locator("input:checked").count()

    def is_at(self, number: int) -> None:
        heading = self.page.get_by_role("heading", level=1)
        expect(heading).to_have_text(f"Page {number} of 4")
        expect(heading).to_be_focused()

    def letters(self, number: int, ranking: list[int]) -> tuple[str, str]:
        order = self.study.pages[self.number - 1][number - 1].order
        return tuple(self.study.letters[order.index(i)] for i in (ranking[0], ranking[-1]))

    def answer(self, number: int) -> None:
        self.is_at(number)
        for question, ranking in BEST.items():
            for asked, letter in zip(
                QUESTIONS[question], self.letters(number, ranking), strict=True
            ):
                self.choose(asked, letter)

    def begin(self, url: str) -> None:
        self.page.goto(f"{url}#rater={self.number}")
        expect(self.page.get_by_role("button", name="Begin")).to_be_disabled()
        self.page.get_by_label("I have read this").check()
        self.press("Begin")
        expect(self.page.get_by_role("heading", level=1)).to_have_text("What to do")
        self.press("To the first page")

    def download(self, folder: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.press("Download answers")
        found: Download = waiting.value
        assert found.suggested_filename == f"answers-{self.study.study}-rater-{self.number}.json"
        file = folder / found.suggested_filename
        found.save_as(file)
        expect(self.page.get_by_role("status")).to_contain_text(found.suggested_filename)
        return file


def _url(tmp_path: Path) -> str:
    return (tmp_path / "study" / "study.html").as_uri()


def _accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not [one for one in found if one["impact"] in {"serious", "critical"}]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_whole_study(study, window, tmp_path):
    page = window.page
    page.context.set_offline(True)
    rater = Rater(page, study, 2)
    # A number that is typed in; one that there is not.
    page.goto(_url(tmp_path))
    _accessible(page)
    page.get_by_label("Your number").fill("4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Please type a number from 1 to 3.")
    page.get_by_label("Your number").fill("2")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Ada <b>Example</b>")).to_be_visible()
    _accessible(page)
    page.get_by_label("I have read this").check()
    rater.press("Begin")
    expect(page.get_by_role("article")).to_have_count(3)
    _accessible(page)
    rater.press("To the first page")

    # What is shown is what the key says, and no markup.
    rater.is_at(1)
    planned = study.pages[1][0]
    for letter, method in zip(study.letters, planned.order, strict=True):
        shown = page.get_by_role("article", name=f"Passage {letter}").locator("p")
        expect(shown).to_have_text(study.items[planned.item].passages[method])
    assert page.evaluate("window.caught") is None
    assert page.locator("main img").count() == 0

    # Nothing is taken that is not an answer.
    rater.press("Next")
    expect(page.get_by_text("Please choose one.")).to_have_count(4)
    _accessible(page)
    most, least = QUESTIONS["consistent"]
    rater.choose(most, "A")
    rater.choose(least, "A")
    clash = page.get_by_text("Passage A cannot be both the most and the least consistent.")
    expect(clash).to_be_visible()
    for question in QUESTIONS["fluent"]:
        rater.choose(question, "B")
    rater.press("Next")
    expect(page.get_by_role("heading", level=1)).to_have_text("Page 1 of 4")
    for question, ranking in BEST.items():
        for asked, letter in zip(QUESTIONS[question], rater.letters(1, ranking), strict=True):
            rater.choose(asked, letter)
    expect(clash).to_be_hidden()
    rater.press("Next")

    # Back and forth, and a reload in the middle of a page.
    rater.is_at(2)
    expect(page.get_by_text("1 of 4 answered")).to_be_visible()
    rater.press("Back")
    rater.is_at(1)
    assert rater.chosen() == 4
    rater.press("Next")
    rater.choose(most, "B")
    page.reload()
    rater.is_at(2)
    assert rater.chosen() == 1
    rater.answer(2)
    rater.press("Stop here")
    expect(page.get_by_text("2 of 4 pages are answered.")).to_be_visible()
    _accessible(page)
    early = json.loads(rater.download(tmp_path).read_text())
    assert (early["stopped"], [one["page"] for one in early["pages"]]) == (True, [1, 2])
    assert all(one["seconds"] > 0 for one in early["pages"])

    # On to the end.
    page.reload()
    rater.press("Go on with page 3")
    for number in (3, 4):
        rater.answer(number)
        rater.press("Next" if number == 3 else "Finish")
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    found = fl.human.score_human_study(study, [rater.download(tmp_path)])
    assert found.notes[1] == "No answers of raters 1, 3."
    assert len(found.ratings) == 8
    for one in found.questions:
        ranks = [BEST[one.question].index(i) + 1 for i in range(3)]
        assert [method.rank.mean for method in one.methods] == ranks


def test_raters_at_one_browser_do_not_mix(study, wide_window, tmp_path):
    page = wide_window.page
    first, second = (Rater(page, study, number) for number in (1, 3))
    first.begin(_url(tmp_path))
    first.answer(1)
    page.get_by_role("link", name="not me").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Which rater are you?")
    second.begin(_url(tmp_path))
    second.is_at(1)
    assert second.chosen() == 0
    page.goto(f"{_url(tmp_path)}#rater=1")
    first.is_at(1)
    assert first.chosen() == 4
    page.goto(f"{_url(tmp_path)}#rater=9")
    expect(page.get_by_role("alert")).to_have_text("There is no rater “9”.")


def test_the_keyboard_is_enough(study, wide_window, tmp_path):
    page = wide_window.page
    Rater(page, study, 1).begin(_url(tmp_path))
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    for number in range(4):  # each question is one stop; arrows choose
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        if number % 2:
            page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Page 2 of 4")


def test_a_browser_that_keeps_nothing(study, wide_window, tmp_path):
    page = wide_window.page
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })"
    )
    rater = Rater(page, study, 1)
    page.goto(f"{_url(tmp_path)}#rater=1")
    expect(page.get_by_text("This browser keeps nothing for this page")).to_be_visible()
    rater.begin(f"{_url(tmp_path)}?again")
    rater.answer(1)
    rater.press("Stop here")
    document = json.loads(rater.download(tmp_path).read_text())
    assert [one["page"] for one in document["pages"]] == [1]


def test_light_and_dark(study, window, tmp_path):
    page = window.page
    Rater(page, study, 1).begin(_url(tmp_path))
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.get_by_role("button", name=re.compile("^(Dark|Light)$")).click()
    assert page.evaluate(ground) != before
    _accessible(page)
