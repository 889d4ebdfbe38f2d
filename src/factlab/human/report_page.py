"""The report of a human study: what came out, in words and tables."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.evaluation.reporting.formats import estimate_cell
from factlab.evaluation.reporting.page import Part, Table
from factlab.human.answers import RaterAnswers, Rating
from factlab.human.key import HumanStudy
from factlab.human.scores import QuestionScores, Wins

TITLE = "What raters say"
PICTURE = "human"
ALT = {PICTURE: "shares of first and last places, by question and method"}
_NO = "—"


class PublishedWin(NamedTuple):
    """A comparison that the ROME paper gives (section 3.6, appendix J), of 150 ratings.

    Attributes:
        question: what was asked.
        above: the method that is above more often.
        below: the other.
        times: how many times as often.
        n: ratings.
    """

    question: str
    above: str
    below: str
    times: float
    n: int = 150


# GPT-2 XL, 50 records, 15 raters. Neither intervals nor agreement are given.
PUBLISHED = (
    PublishedWin("consistent", "ROME", "FT+L", 1.8),
    PublishedWin("fluent", "FT+L", "ROME", 1.3),
)


def page_parts(
    study: HumanStudy, answers: Sequence[RaterAnswers], questions: Sequence[QuestionScores]
) -> list[Part]:
    """The page, part by part."""
    return [
        Part("What was done", notes(study, answers), [raters_table(study, answers)], []),
        Part("Places", [], [places_table(questions)], [PICTURE]),
        Part("One against another", [], [wins_table(questions)], []),
        Part("Agreement", [], [agreement_table(questions)], []),
    ]


def notes(study: HumanStudy, answers: Sequence[RaterAnswers]) -> list[str]:
    """How much was answered and what is missing, a sentence each."""
    pages = sum(len(own.pages) for own in answers)
    planned = sum(map(len, study.pages))
    said = [
        f"{counted(len(answers), 'rater')} of {len(study.pages)} and {counted(pages, 'page')} of "
        f"{planned:,}: {'; '.join(study.labels)} on {counted(len(study.items), 'item')}."
    ]
    there = {own.rater for own in answers}
    missing = [number for number in range(1, len(study.pages) + 1) if number not in there]
    if missing:
        said.append(f"No answers of {_listed(missing)}.")
    for own in answers:
        n_pages = len(study.pages[own.rater - 1])
        left = sorted({*range(1, n_pages + 1)} - {page.page for page in own.pages})
        if left:
            how = "stopped early" if own.stopped else "left pages out"
            pages = "page" if len(left) == 1 else "pages"
            said.append(f"Rater {own.rater} {how}: {pages} {', '.join(map(str, left))} missing.")
    if study.n_same:
        said.append(
            f"In {counted(study.n_same, 'item')} two passages are the same: their order is by "
            "chance."
        )
    return said


def raters_table(study: HumanStudy, answers: Sequence[RaterAnswers]) -> Table:
    """How much each rater answered, and how fast."""
    lines = [
        [
            f"{own.rater}", f"{len(own.pages)}", f"{len(study.pages[own.rater - 1])}",
            f"{own.minutes:.1f}",
            f"{60 * own.minutes / len(own.pages):.0f}" if own.pages else _NO,
        ]
        for own in answers
    ]  # fmt: skip
    return Table(["rater", "pages", "of", "minutes", "seconds a page"], lines, 1, "")


def places_table(questions: Sequence[QuestionScores]) -> Table:
    """Shares of first and last places, and mean ranks."""
    lines = [
        [
            one.question, method.method, f"{method.n}", estimate_cell(method.most, 100.0, 0),
            estimate_cell(method.least, 100.0, 0), estimate_cell(method.rank, 1.0, 2),
        ]
        for one in questions
        for method in one.methods
    ]  # fmt: skip
    return Table(
        ["question", "method", "n", "most", "least", "rank"], lines, 2,
        "Most, least: share of ratings ×100 that have the method first, or last, with Wilson's "
        "95 % interval. Rank: mean, 1 being first; interval over items.",
    )  # fmt: skip


def wins_table(questions: Sequence[QuestionScores]) -> Table:
    """Every pair of methods, and what the ROME paper gives."""
    lines = [_win_line(one.question, win) for one in questions for win in one.wins]
    lines += [
        [f"{one.question} (ROME paper)", one.above, one.below, f"{one.n}", _NO, f"{one.times}", _NO]
        for one in PUBLISHED
    ]
    return Table(
        ["question", "above", "below", "n", "share", "times", "p"], lines, 3,
        "Share ×100 of ratings that place the first method above the second, and how many times "
        "as often that is as the reverse; 95 % intervals over items. n: ratings that say which. p: "
        "exact sign test, which takes ratings for independent. The ROME paper's are of GPT-2 XL, "
        "without intervals.",
    )  # fmt: skip


def agreement_table(questions: Sequence[QuestionScores]) -> Table:
    """Whether raters agree."""
    lines = [
        [
            one.question, f"{one.n_agreed}", estimate_cell(one.alpha, 1.0, 2),
            estimate_cell(one.w, 1.0, 2),
            _NO if math.isnan(one.w_by_chance) else f"{one.w_by_chance:.2f}",
        ]
        for one in questions
    ]  # fmt: skip
    return Table(
        ["question", "items", "alpha", "W", "W by chance"], lines, 1,
        "Over items with two or more raters. Alpha: Krippendorff's, of ordered places; 1 if all "
        "agree, 0 if they guess; interval over items. W: Kendall's, mean over items.",
    )  # fmt: skip


def ratings_csv(study: HumanStudy, ratings: Sequence[Rating]) -> str:
    """A line for every rating."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rater", "page", "case_id", "question", "most", "least", "seconds"])
    for one in ratings:
        table.writerow(
            [
                one.rater, one.page, study.items[one.item].case_id, one.question,
                study.labels[one.most], study.labels[one.least], f"{one.seconds:.1f}",
            ]
        )  # fmt: skip
    return text.getvalue()


def _win_line(question: str, win: Wins) -> list[str]:
    n = win.wins + win.losses
    return [
        question, win.above, win.below, f"{n}", estimate_cell(win.share, 100.0, 0),
        _times_cell(win.times), _NO if math.isnan(win.p) else f"{win.p:.3f}" if win.p >= 1e-3
        else "<0.001",
    ]  # fmt: skip


def _times_cell(times: Estimate) -> str:
    if math.isinf(times.mean):
        return "always"
    return estimate_cell(times, 1.0, 1)


def _listed(raters: Sequence[int]) -> str:
    """Such as `rater 3` or `raters 3–5, 9`."""
    runs: list[list[int]] = []
    for number in raters:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{'rater' if len(raters) == 1 else 'raters'} {said}"
