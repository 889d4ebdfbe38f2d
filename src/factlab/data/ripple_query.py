"""`RippleQuery`: a question whose right answer an edit changes, or must not change, elsewhere.

Source: Cohen et al. 2023, "Evaluating the Ripple Effects of Knowledge Editing in Language Models":
a test query is asked after the edit, and counts only if the model could answer its condition
queries before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from factlab.errors import InvalidRequestError
from factlab.writing import check_texts

Axis = Literal[
    "composition", "composition_from", "specificity", "alias", "reversal", "negation", "loud",
    "forgetfulness", "choice", "logic",
]  # fmt: skip
# How an answer is judged: by what the model says; by which candidate is more probable; by whether
# the answer has become more probable; by whether it has become less so.
Manner = Literal["say", "prefer", "rise", "fall"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What a model must know before the edit, or a query says nothing about the edit.

    Attributes:
        prompt: asked of the unedited model.
        answers: what it may say; any of them is right.
        others: if there are any, the model need not say an answer, but must find one more probable
            than each of these.

    Raises:
        InvalidRequestError: there is no answer.
    """

    prompt: str
    answers: Sequence[str]
    others: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("answers", "others"):
            object.__setattr__(self, name, _listed(getattr(self, name), f"{name} of a condition"))
        if not self.answers:
            raise InvalidRequestError(f"The condition '{self.prompt}' has no answer. Give one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RippleQuery:
    """One question beside the edited fact.

    Attributes:
        axis: what it tests.
        prompt: where the model goes on.
        answers: right in the world of the edit, each as good as the others; of `fall` what must
            become less probable.
        old_answers: right in the world without it, where that differs.
        others: candidates that the answers are compared with, of `prefer` and `rise`.
        manner: how an answer is judged.
        conditions: what the unedited model must know.
        needs: whether all conditions must hold, or any.

    Raises:
        InvalidRequestError: there is no answer, or of `prefer` nothing to compare it with.
    """

    axis: Axis
    prompt: str
    answers: Sequence[str]
    old_answers: Sequence[str] = ()
    others: Sequence[str] = ()
    manner: Manner = "say"
    conditions: Sequence[Condition] = ()
    needs: Literal["all", "any"] = "all"

    def __post_init__(self) -> None:
        for name in ("answers", "old_answers", "others"):
            object.__setattr__(self, name, _listed(getattr(self, name), name))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if not self.answers or (self.manner == "prefer" and not self.others):
            raise InvalidRequestError(
                f"A query of axis {self.axis} has no answer, or nothing to compare it with."
            )


def _listed(texts: object, name: str) -> tuple[str, ...]:
    if isinstance(texts, list):
        texts = tuple(texts)
    check_texts(texts, name)
    return texts  # pyright: ignore[reportReturnType] - checked
