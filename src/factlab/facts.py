"""The vocabulary of requests: what a fact is. No torch here."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from factlab.errors import InvalidRequestError

SLOT = "{}"

_log = logging.getLogger(__name__)


class TokenSpan(NamedTuple):
    """A half-open range of token positions: `start` is inside, `stop` is not."""

    start: int
    stop: int

    @property
    def last(self) -> int:
        """Position of the last token inside."""
        return self.stop - 1


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement (subject, relation, object), and the object it should have after an edit.

    Strings are written the way a person writes them. Whether a target needs a leading space, and
    which tokens it becomes, is decided in `factlab.tokens`.

    Attributes:
        template: the relation as a sentence with one `{}` where the subject goes, ending where the
            object would follow: `"{} is located in the city of"`.
        subject: what the statement is about: `"The Eiffel Tower"`.
        target_new: the object that an edit should make the model say, if one is wanted.
        target_true: the object that is true, if known.

    Raises:
        InvalidRequestError: the template does not hold exactly one `{}`, or a string is empty.
    """

    template: str
    subject: str
    target_new: str | None = None
    target_true: str | None = None

    def __post_init__(self) -> None:
        slots = self.template.count(SLOT)
        if slots != 1:
            raise InvalidRequestError(
                f"Template '{self.template}' holds {slots} '{SLOT}'. "
                f"Write '{SLOT}' exactly once, where the subject goes."
            )
        for name in ("subject", "target_new", "target_true"):
            value: str | None = getattr(self, name)
            if value is not None and not value.strip():
                raise InvalidRequestError(f"The {name} is empty. Give at least one word.")

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return self.template.replace(SLOT, self.subject)

    @property
    def subject_start(self) -> int:
        """Character position of the subject in `prompt`."""
        return self.template.index(SLOT)

    @classmethod
    def from_prompt(
        cls,
        prompt: str,
        subject: str,
        target_new: str | None = None,
        target_true: str | None = None,
        occurrence: int | None = None,
    ) -> "Fact":
        """Make a fact of a whole prompt by cutting out the subject.

        Args:
            prompt: the text.
            subject: a part of it.
            target_new: see `Fact`.
            target_true: see `Fact`.
            occurrence: which occurrence of the subject is meant, from 1. By default the first; if
                there are others, that is logged.

        Raises:
            InvalidRequestError: prompt or subject is empty, or the subject does not occur in the
                prompt, or not so often.
        """
        if not prompt.strip():
            raise InvalidRequestError("The prompt is empty. Give at least one word.")
        if not subject.strip():
            raise InvalidRequestError("The subject is empty. Give at least one word.")
        count = prompt.count(subject)
        if count == 0:
            raise InvalidRequestError(
                f"Subject '{subject}' does not occur in prompt '{prompt}'. "
                "Pass the subject exactly as written there."
            )
        if occurrence is not None and not 1 <= occurrence <= count:
            raise InvalidRequestError(
                f"Subject '{subject}' occurs {count} times in prompt '{prompt}': "
                f"occurrence={occurrence} must be from 1 to {count}."
            )
        if occurrence is None and count > 1:
            _log.warning(
                "Subject '%s' occurs %d times in prompt '%s'; the first is used. "
                "Choose another with occurrence=2.", subject, count, prompt,
            )  # fmt: skip
        pieces = prompt.split(subject)
        which = occurrence or 1
        template = subject.join(pieces[:which]) + SLOT + subject.join(pieces[which:])
        return cls(template, subject, target_new, target_true)
