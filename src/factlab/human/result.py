"""`HumanScores`: what a human study comes to, and `score_human_study`, which counts it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.arguments import checked
from factlab.errors import InvalidRequestError
from factlab.estimate import Estimate
from factlab.human.answers import (
    QUESTIONS,
    SCORES,
    RaterAnswers,
    Rating,
    load_answers,
    ratings_of,
)
from factlab.human.key import HumanStudy
from factlab.human.scores import MethodScores, QuestionScores, Wins, score_question
from factlab.results import Drawn, Tabular, known
from factlab.storage import write_json, write_text

if TYPE_CHECKING:
    from factlab.evaluation.reporting.page import Part
    from factlab.figures import Picture

FORMAT = "factlab human scores 1"


@dataclass(frozen=True, repr=False)
class HumanScores(Tabular, Drawn):
    """What raters say of the methods of a study.

    Attributes:
        study: with its key.
        answers: of every rater who has handed some back.
    """

    study: HumanStudy
    answers: Sequence[RaterAnswers]

    @cached_property
    def ratings(self) -> tuple[Rating, ...]:
        """What was said of which method: two ratings for every answered page."""
        return tuple(ratings_of(self.study, self.answers))

    @cached_property
    def questions(self) -> tuple[QuestionScores, ...]:
        """What came out of each question: consistency, then fluency."""
        return tuple(score_question(self.ratings, one, self.study.labels) for one in QUESTIONS)

    @property
    def notes(self) -> tuple[str, ...]:
        """How much was answered and what is missing, a sentence each."""
        from factlab.human.report_page import notes  # noqa: PLC0415 - draws

        return tuple(notes(self.study, self.answers))

    def __repr__(self) -> str:
        size = f"{len(self.answers)} of {len(self.study.pages)} raters"
        lines = [f"HumanScores({'; '.join(self.study.labels)}: {size})"]
        for one in self.questions:
            places = "; ".join(
                f"{method.method} {100 * method.most.mean:.0f} %" for method in one.methods
            )
            lines.append(f"  most {one.question}: {places}; alpha {one.alpha.mean:.2f}")
        return "\n".join(lines)

    def __hash__(self) -> int:
        return hash((self.study.study, len(self.answers), len(self.ratings)))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each question and method.

        Its keys: question, method, n, most, most_low, most_high, least, least_low, least_high,
        rank, rank_low, rank_high; see `MethodScores`.
        """
        return [_row(one.question, method) for one in self.questions for method in one.methods]

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw how often each method is first and last, as the ROME paper's figure 26.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.human.plot import draw_places  # noqa: PLC0415 - matplotlib when drawing only

        return draw_places(self.questions, path)

    def parts(self) -> "list[Part]":
        """The report, part by part."""
        from factlab.human.report_page import page_parts  # noqa: PLC0415 - draws

        return page_parts(self.study, self.answers, self.questions)

    def to_markdown(self) -> str:
        """The report as Markdown."""
        from factlab.evaluation.reporting.page import markdown_page  # noqa: PLC0415 - draws
        from factlab.human.report_page import ALT, TITLE  # noqa: PLC0415

        return markdown_page(TITLE, self.parts(), ALT)

    def to_json(self) -> dict[str, Any]:
        """Every score, ready for JSON."""
        from factlab.human.report_page import PUBLISHED  # noqa: PLC0415 - draws

        return {
            "format": FORMAT,
            "study": self.study.study,
            "methods": [method.model_dump(mode="json") for method in self.study.methods],
            "notes": [*self.notes],
            "places": self.rows(),
            "wins": [_win(one.question, win) for one in self.questions for win in one.wins],
            "agreement": [_agreement(one) for one in self.questions],
            "published": [one._asdict() for one in PUBLISHED],
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.md`, `report.html`, `scores.json`, `ratings.csv` and `human.png`.

        Returns:
            The files.

        Raises:
            StorageError: one of them cannot be written.
        """
        from factlab.evaluation.reporting.page import html_page  # noqa: PLC0415 - draws
        from factlab.human.report_page import PICTURE, TITLE, ratings_csv  # noqa: PLC0415

        folder = Path(folder)
        picture = folder / f"{PICTURE}.png"
        pictures = {PICTURE: self.plot(picture)}
        texts = {
            "report.md": self.to_markdown(),
            "report.html": html_page(TITLE, self.parts(), pictures),
            "ratings.csv": ratings_csv(self.study, self.ratings),
        }
        for name, text in texts.items():
            write_text(folder / name, text)
        write_json(folder / SCORES, self.to_json())
        return [*(folder / name for name in texts), folder / SCORES, picture]


@checked()
def score_human_study(study: HumanStudy | str | Path, answers: Sequence[str | Path]) -> HumanScores:
    """Join the answers of raters with the key, and count them.

    Args:
        study: with its key, or where the key is.
        answers: files that raters have downloaded, or folders of them.

    Returns:
        Shares, ranks, wins and agreement; ROME paper, appendix J, and what it leaves out.

    Raises:
        InvalidRequestError: there are no answers, or no page of any is answered.
        StorageError: a file is not there, damaged, of another study, or of a rater who has one
            already; names the file and the field.
    """
    study = study if isinstance(study, HumanStudy) else HumanStudy.load(study)
    scores = HumanScores(study, tuple(load_answers(study, answers)))
    if not scores.ratings:
        raise InvalidRequestError("No page is answered in these files: there is nothing to count.")
    return scores


def _row(question: str, method: MethodScores) -> dict[str, Any]:
    return {
        "question": question,
        "method": method.method,
        "n": method.n,
        **_in_json("most", method.most),
        **_in_json("least", method.least),
        **_in_json("rank", method.rank),
    }


def _win(question: str, win: Wins) -> dict[str, Any]:
    return {
        "question": question,
        "above": win.above,
        "below": win.below,
        "wins": win.wins,
        "losses": win.losses,
        **_in_json("share", win.share),
        **_in_json("times", win.times),
        "p": known(win.p),
    }


def _agreement(one: QuestionScores) -> dict[str, Any]:
    return {
        "question": one.question,
        "items": one.n_agreed,
        **_in_json("alpha", one.alpha),
        **_in_json("w", one.w),
        "w_by_chance": known(one.w_by_chance),
    }


def _in_json(name: str, estimate: Estimate) -> dict[str, float | None]:
    """A mean and the ends of its interval; None where there is none, or it is infinite."""
    low, high = estimate.interval
    values = {name: estimate.mean, f"{name}_low": low, f"{name}_high": high}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
