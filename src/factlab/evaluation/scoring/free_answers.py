"""Scores of what a model answered in its own words.

    score     of which answers                      counted
    exact     about the edited fact                 is one of those that are right, normalised
    says      about the edited fact                 holds one of those that are right, as words
    old       about the edited fact                 holds what was true before, as words
    kept      about other subjects                  holds what is true there, as words
    judged    about the edited fact                 a judge takes it for right

Answers about the edited fact are those to its rewriting prompt, its paraphrases and its questions.
A share is over the answers of one record; a record without any has none.

Normalised as for SQuAD (Rajpurkar et al. 2016): small letters, no punctuation, no articles, single
spaces. Signs of other scripts that are punctuation count as such too.
"""

import math
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from factlab.evaluation.configs import AnswerForm
from factlab.evaluation.measuring.rows import GivenAnswer
from factlab.evaluation.scoring.metrics import Score
from factlab.writing import find_words

AnswerKind = Literal["exact", "says", "old", "kept", "judged"]

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_LEADING_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)


def normalised(text: str) -> str:
    """A text in small letters, without punctuation and articles, and with single spaces.

    >>> normalised(" The  Washington, D.C. area.")
    'washington dc area'
    """
    kept = "".join(sign for sign in text.lower() if not _is_punctuation(sign))
    return " ".join(_ARTICLE.sub(" ", kept).split())


def is_exactly(text: str, accepted: Sequence[str]) -> bool:
    """Whether a text is one of those accepted, when all are normalised."""
    return normalised(text) in {normalised(one) for one in accepted}


def holds(text: str, words: str) -> bool:
    """Whether some words stand in a text as words of their own.

    Large and small letters are alike, and an article before the words need not be there. They may
    stand there as they are written ("Rome-based" holds Rome, "Romeo" and "Austria-Hungary" hold
    neither Rome nor Austria), or normalised on both sides ("Washington DC" is in "Washington,
    D.C.").
    """
    return _place(text, words) is not None or _holds_normalised(text, words)


def says_old(answer: GivenAnswer) -> bool:
    """Whether an answer still says what was true before the edit.

    Where the old object is part of what is right now (York in New York), what is right is taken out
    first.
    """
    text, old = answer.text, answer.old or ""
    for right in answer.right:
        if holds(right, old):
            while (at := _place(text, right)) is not None:
                text = f"{text[: at[0]]} {text[at[1] :]}"
            if _holds_normalised(text, right):
                text = _without(normalised(text), normalised(right))
    return holds(text, old)


def answer_score(
    answers: Sequence[GivenAnswer] | None, form: AnswerForm, kind: AnswerKind
) -> Score:
    """A score of one record: the share of its answers in some form that count."""
    if answers is None:
        return Score(math.nan, "no answers were asked for")
    own = [answer for answer in answers if answer.form == form]
    if not own:
        return Score(math.nan, f"no answers were asked for in {form} form")
    own = [answer for answer in own if (answer.group == "neighborhood") == (kind == "kept")]
    if not own:
        return Score(math.nan, "the record has no such prompts")
    if kind == "old" and any(answer.old is None for answer in own):
        return Score(math.nan, "the true target is not known")
    if kind == "judged":
        own = [answer for answer in own if answer.judged is not None]
        if not own:
            return Score(math.nan, "no judge was asked, or it could not tell")
    return Score(math.fsum(map(_COUNTED[kind], own)) / len(own))


class Agreement(NamedTuple):
    """How far a judge and exact match agree on some answers.

    Attributes:
        n: answers that the judge could tell.
        right: share of them that it takes for right.
        equal: share on which both say the same; NaN if there are none.
        kappa: Cohen's kappa: how far that is above what chance makes of two such raters, 1 at best;
            NaN if chance alone makes them agree always.
        unjudged: how many it was asked and could not tell, by reason.
    """

    n: int
    right: float
    equal: float
    kappa: float
    unjudged: dict[str, int]


def agreement(answers: Sequence[GivenAnswer]) -> Agreement:
    """Of a judge's verdicts on answers with exact match (Cohen 1960)."""
    unjudged: dict[str, int] = {}
    pairs: list[tuple[bool, bool]] = []
    for answer in answers:
        if answer.judged is not None:
            pairs.append((answer.judged, is_exactly(answer.text, answer.right)))
        elif answer.unjudged:
            unjudged[answer.unjudged] = unjudged.get(answer.unjudged, 0) + 1
    n = len(pairs)
    if not n:
        return Agreement(0, math.nan, math.nan, math.nan, unjudged)
    equal = sum(one == other for one, other in pairs) / n
    judged, exact = (sum(values) / n for values in zip(*pairs, strict=True))
    by_chance = judged * exact + (1 - judged) * (1 - exact)
    kappa = math.nan if by_chance == 1 else (equal - by_chance) / (1 - by_chance)
    return Agreement(n, judged, equal, kappa, unjudged)


def _exact(answer: GivenAnswer) -> float:
    return float(is_exactly(answer.text, answer.right))


def _says(answer: GivenAnswer) -> float:
    return float(any(holds(answer.text, right) for right in answer.right))


def _old(answer: GivenAnswer) -> float:
    return float(says_old(answer))


def _judged(answer: GivenAnswer) -> float:
    return float(bool(answer.judged))


_COUNTED: dict[AnswerKind, Callable[[GivenAnswer], float]] = {
    "exact": _exact, "says": _says, "old": _old, "kept": _says, "judged": _judged,
}  # fmt: skip


def _is_punctuation(sign: str) -> bool:
    return sign in string.punctuation or unicodedata.category(sign)[0] == "P"


def _place(text: str, words: str) -> tuple[int, int] | None:
    """Where words stand in a text as they are written, whatever their capitals."""
    bare = _LEADING_ARTICLE.sub("", words, count=1) if _LEADING_ARTICLE.match(words) else words
    at = find_words(text, bare, any_case=True) if bare else None
    return None if at is None else (at, at + len(bare))


def _holds_normalised(text: str, words: str) -> bool:
    wanted = normalised(words)
    return bool(wanted) and f" {wanted} " in f" {normalised(text)} "


def _without(text: str, words: str) -> str:
    """A normalised text without some normalised words."""
    while f" {words} " in f" {text} ":
        text = f" {text} ".replace(f" {words} ", " ", 1).strip()
    return text
