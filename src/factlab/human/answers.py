"""What raters hand back: a file each, joined with the key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from factlab.documents import Growing, check_format, validated
from factlab.errors import InvalidRequestError, StorageError
from factlab.human.key import KEY, HumanStudy
from factlab.storage import read_json

FORMAT = "factlab human answers 1"
Question = Literal["consistent", "fluent"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
FIRST, MIDDLE, LAST = range(3)  # places
SCORES = "scores.json"
# What factlab itself writes beside answers.
_OURS = frozenset({KEY, SCORES})
_ADVICE = "Ask the rater for the file again."


class PageAnswers(BaseModel):
    """What was chosen on one page; passages are called by their letters.

    Attributes:
        page: its number, from 1.
        most_consistent: with the made-up fact.
        least_consistent: likewise.
        most_fluent: what reads best.
        least_fluent: what reads worst.
        seconds: that the page was looked at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: StrictInt
    most_consistent: StrictStr
    least_consistent: StrictStr
    most_fluent: StrictStr
    least_fluent: StrictStr
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RaterAnswers(Growing):
    """The file of one rater.

    Attributes:
        format: of the file.
        study: which it belongs to.
        rater: number of the rater, from 1.
        stopped: whether the rater has left pages out.
        pages: that are answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: StrictStr
    study: StrictStr
    rater: StrictInt
    stopped: StrictBool
    pages: tuple[PageAnswers, ...]

    @property
    def minutes(self) -> float:
        """Spent on answered pages."""
        return sum(page.seconds for page in self.pages) / 60


@dataclass(frozen=True, slots=True)
class Rating:
    """What a rater says of one item.

    Attributes:
        rater: number of the rater.
        page: number of the page.
        item: number of the item, from 0.
        question: what was asked.
        most: the method whose passage is first.
        least: the one whose passage is last.
        seconds: that the page was looked at.
    """

    rater: int
    page: int
    item: int
    question: Question
    most: int
    least: int
    seconds: float

    def places(self, n_methods: int) -> list[int]:
        """First, middle or last, of every method."""
        return [
            FIRST if i == self.most else LAST if i == self.least else MIDDLE
            for i in range(n_methods)
        ]


def load_answers(study: HumanStudy, paths: Sequence[str | Path]) -> list[RaterAnswers]:
    """Read answers.

    Args:
        study: that they are to be of.
        paths: files, or folders of files.

    Returns:
        By number of rater.

    Raises:
        InvalidRequestError: there are none.
        StorageError: a file is not there, damaged, of another study, or of a rater who has one
            already.
    """
    found: dict[int, tuple[Path, RaterAnswers]] = {}
    for file in _files(paths):
        answers = _load(study, file)
        if answers.rater in found:
            raise StorageError(
                f"'{found[answers.rater][0]}' and '{file}' are both of rater {answers.rater}. "
                "Keep one of them."
            )
        found[answers.rater] = file, answers
    return [found[rater][1] for rater in sorted(found)]


def ratings_of(study: HumanStudy, answers: Sequence[RaterAnswers]) -> list[Rating]:
    """What was said of which method: two ratings for every answered page."""
    ratings: list[Rating] = []
    for own in answers:
        for page in own.pages:
            shown = study.pages[own.rater - 1][page.page - 1]
            behind = dict(zip(study.letters, shown.order, strict=True))
            pairs = (
                (page.most_consistent, page.least_consistent),
                (page.most_fluent, page.least_fluent),
            )
            for question, (most, least) in zip(QUESTIONS, pairs, strict=True):
                ratings.append(
                    Rating(
                        own.rater, page.page, shown.item, question, behind[most], behind[least],
                        page.seconds,
                    )
                )  # fmt: skip
    return ratings


def _files(paths: Sequence[str | Path]) -> list[Path]:
    files = [*chain.from_iterable(map(_inside, map(Path, paths)))]
    if not files:
        raise InvalidRequestError(
            "There are no answers. Give the files that raters have downloaded, or their folder."
        )
    return files


def _inside(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.glob("*.json")) if file.name not in _OURS)
    elif path.is_file():
        yield path
    else:
        raise StorageError(f"There is no file or folder '{path}'. Check the name.")


def _load(study: HumanStudy, file: Path) -> RaterAnswers:
    found, where = read_json(file), f"'{file}'"
    check_format(found.get("format"), FORMAT, where, "the answers of a rater")
    answers = validated(RaterAnswers, found, where, _ADVICE)
    if answers.study != study.study:
        raise StorageError(
            f"{where} is of another study: its study is '{answers.study[:40]}', that of the key "
            f"'{study.study}'. Give the key of its own study."
        )
    if not 1 <= answers.rater <= len(study.pages):
        raise StorageError(
            f"{where} is damaged: rater is {answers.rater}, and the study has 1 to "
            f"{len(study.pages)}. {_ADVICE}"
        )
    _check_pages(study, answers, where)
    return answers


def _check_pages(study: HumanStudy, answers: RaterAnswers, where: str) -> None:
    """Refuse pages that the rater has not got, and choices that none can make."""
    n_pages, seen = len(study.pages[answers.rater - 1]), set[int]()
    for number, page in enumerate(answers.pages):
        name = f"{where} is damaged: pages.{number}"
        if not 1 <= page.page <= n_pages:
            raise StorageError(
                f"{name}.page is {page.page}, and this rater has 1 to {n_pages}. {_ADVICE}"
            )
        if page.page in seen:
            raise StorageError(f"{name}.page is {page.page} for the second time. {_ADVICE}")
        seen.add(page.page)
        for field, value in page.model_dump(exclude={"page", "seconds"}).items():
            if value not in [*study.letters]:
                raise StorageError(
                    f"{name}.{field} is {value[:20]!r}, and the passages are "
                    f"{', '.join(study.letters)}. {_ADVICE}"
                )
        if page.most_consistent == page.least_consistent or page.most_fluent == page.least_fluent:
            what = "consistent" if page.most_consistent == page.least_consistent else "fluent"
            raise StorageError(
                f"{name}.most_{what} and least_{what} are the same passage. {_ADVICE}"
            )
