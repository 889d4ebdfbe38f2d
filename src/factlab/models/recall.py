"""What was worked out about a model, kept with the model."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from factlab.models.identity.identity import Identity

T = TypeVar("T")


class Recall:
    """Answers to questions about a model that cost too much to be asked twice.

    An answer holds for the model it was worked out on; for another it is worked out anew.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Identity, Any]] = {}

    def of(self, question: Hashable, identity: Identity, work_out: Callable[[], T]) -> T:
        """The answer to a question.

        Args:
            question: names it.
            identity: of the model that the answer is for.
            work_out: gives the answer, if it is not known.
        """
        known = self._known.get(question)
        if known is None or known[0] != identity:
            known = self._known[question] = identity, work_out()
        return known[1]
