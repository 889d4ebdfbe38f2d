"""The vocabulary of requests: what a fact is. No torch here."""

import logging
import re
from dataclasses import InitVar, dataclass
from typing import Literal, NamedTuple

from factlab.errors import InvalidRequestError, counted
from factlab.lookalikes import differences, lookalike, nearest_part
from factlab.writing import check_text, wants_space

SLOT = "{}"

# The token of a prompt that an edit acts on, by its place at the subject or in the prompt.
LookupToken = Literal["first", "last", "first_after_last", "end"]

# How a target is joined to its prompt, where it is not left to a writer's habits.
Joint = Literal["space", "none"]
JOINTS: tuple[Joint, ...] = ("space", "none")
# Unicode's WORD JOINER, in front of a target: nothing goes between it and the prompt.
JOINED = "\u2060"

# Words that begin a sentence, and are small inside one.
_SMALL = ("The", "A", "An", "In", "On", "At")
_BRACES = re.compile(r"\{\{|\}\}|\{\}")

_log = logging.getLogger(__name__)


class TokenSpan(NamedTuple):
    """A half-open range of token positions: `start` is inside, `stop` is not."""

    start: int
    stop: int

    @property
    def last(self) -> int:
        """Position of the last token inside."""
        return self.stop - 1


def words_of(target: str) -> str:
    """A target without what only says how it is joined to its prompt."""
    return target.strip().removeprefix(JOINED).strip()


def joint_named(name: str | None) -> Joint | None:
    """A joint by its name, as in a file or an option.

    Raises:
        InvalidRequestError: there is no such joint.
    """
    for joint in JOINTS:
        if name == joint:
            return joint
    if name is not None:
        raise InvalidRequestError(f"joint={name!r} must be 'space', 'none' or None.")
    return None


def joined_by(target: str, joint: Joint | None) -> str:
    """A target that says itself how it is joined to its prompt.

    Args:
        target: the text.
        joint: "space" for one space and "none" for nothing between prompt and target; None leaves
            the target as it is: then what it begins with, if that is white space, goes between, and
            otherwise a space where a writer would put one.

    Raises:
        InvalidRequestError: there is no such joint.
    """
    if joint_named(joint) is None:
        return target
    return (" " if joint == "space" else JOINED) + words_of(target)


def fill(text: str, subject: str) -> str:
    """A text with the subject in its slots, and doubled braces as single ones; see `Fact`."""
    return subject.join(_pieces(text, has_subject=bool(subject)))


def has_slot(template: str) -> bool:
    """Whether a template has a place for a subject; doubled braces are text."""
    return len(_pieces(template, has_subject=False)) > 1


def _pieces(template: str, has_subject: bool = True) -> list[str]:
    """What stands before, between and behind the slots of a template."""
    count = template.count(SLOT)
    if count == 0 or (count == 1 and has_subject):  # whatever other braces there are
        return template.split(SLOT)
    pieces, at = [""], 0
    for match in _BRACES.finditer(template):
        pieces[-1] += template[at : match.start()]
        at = match.end()
        if match[0] == SLOT:
            pieces.append("")
        else:
            pieces[-1] += match[0][0]
    pieces[-1] += template[at:]
    return pieces


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement (subject, relation, object), and the object it should have after an edit.

    Strings are written the way a person writes them. Whether a target needs a leading space, and
    which tokens it becomes, is decided in `factlab.tokens`; `joint` overrides it.

    Attributes:
        template: the relation as a sentence with one `{}` where the subject goes, ending where the
            object would follow: `"{} is located in the city of"`. Where the text itself has such
            braces, double every brace of the text, as for `str.format`: `"In {}, x = {{}} makes"`.
        subject: what the statement is about: `"The Eiffel Tower"`. Empty for a fact without one,
            whose template is a whole prompt without `{}`: `"Who wrote Hamlet? Answer:"`. Methods
            that look a subject up refuse it (`Method.needs_subject`).
        target_new: the object that an edit should make the model say, if one is wanted.
        target_true: the object that is true, if known.
        joint: given when a fact is made, and kept in its targets: "space" or "none" for what goes
            between prompt and target. By default a space where a writer would put one, or the white
            space that a target begins with.

    Raises:
        InvalidRequestError: the template does not hold exactly one `{}`, or without a subject any;
            or a string is empty, no text, or not valid Unicode.

    Examples:
        >>> fact = fl.Fact("{} is in", "The Louvre", target_new="Rome", target_true="Paris")
        >>> fact.prompt
        'The Louvre is in'
        >>> fl.Fact("Who wrote Hamlet? Answer:", "", target_new="Marlowe").prompt
        'Who wrote Hamlet? Answer:'
    """

    template: str
    subject: str
    target_new: str | None = None
    target_true: str | None = None
    joint: InitVar[Joint | None] = None

    def __post_init__(self, joint: Joint | None) -> None:
        check_text(self.template, "template")
        joint_named(joint)
        check_text(self.subject, "subject")
        self._check_slots()
        for name in ("target_new", "target_true"):
            value: str | None = getattr(self, name)
            if value is None:
                continue
            check_text(value, name)
            if not words_of(value):
                raise InvalidRequestError(f"The {name} is empty. Give at least one word.")
            object.__setattr__(self, name, joined_by(value, joint))

    def _check_slots(self) -> None:
        """Refuse a template that does not go with the subject."""
        has_subject = bool(words_of(self.subject))
        slots = len(_pieces(self.template, has_subject)) - 1
        if slots == has_subject:
            if not words_of(self.template):
                raise InvalidRequestError("The template is empty. Give at least one word.")
            if not has_subject:
                object.__setattr__(self, "subject", "")
            return
        if not has_subject:
            raise InvalidRequestError(
                f"The subject is empty. Give at least one word: template '{self.template}' holds "
                f"'{SLOT}', where it goes."
            )
        hint = "" if slots else " A fact without a subject has an empty one."
        raise InvalidRequestError(
            f"Template '{self.template}' holds {slots} '{SLOT}'. "
            f"Write '{SLOT}' exactly once, where the subject goes; double the braces that "
            f"belong to the text: '{{{{}}}}'.{hint}"
        )

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return fill(self.template, self.subject)

    @property
    def clause(self) -> str:
        """The prompt as it stands inside a sentence: an article at its start is a small letter.

        Examples:
            >>> fl.Fact("The capital of {} is", "Japan").clause
            'the capital of Japan is'
        """
        prompt = self.prompt
        begins = next((word for word in _SMALL if prompt.startswith(f"{word} ")), "")
        own = begins and self.template.startswith(begins)  # not the subject's, as in The Beatles
        return begins.lower() + prompt[len(begins) :] if own else prompt

    def sentence(self, beginning: str = "") -> str:
        """The fact as a sentence, with the new target.

        Args:
            beginning: what it begins with, such as "Imagine that".

        Raises:
            InvalidRequestError: there is no new target.

        Examples:
            >>> fl.Fact("{} is in", "The Louvre", target_new="Rome").sentence()
            'The Louvre is in Rome.'
        """
        target = self.target_new
        if target is None:
            raise InvalidRequestError(f"'{self.prompt}' has no target_new. Give one.")
        prompt = f"{beginning} {self.clause}" if beginning else self.prompt
        words, prompt = words_of(target), prompt.rstrip()
        apart = target[0].isspace() or (
            not target.startswith(JOINED) and wants_space(prompt, words)
        )
        return f"{prompt}{' ' if apart else ''}{words}{'' if words[-1] in '.!?。' else '.'}"

    @property
    def question(self) -> tuple[str, str]:
        """Template and subject without outer spaces: facts that agree in it ask for the same."""
        return self.template.strip(), self.subject.strip()

    @property
    def topic(self) -> str:
        """What to call the fact in a few words: its subject, or without one its prompt."""
        return self.subject or self.prompt

    @property
    def subject_start(self) -> int:
        """Character position of the subject in `prompt`.

        Raises:
            InvalidRequestError: there is none.
        """
        self.check_subject()
        return len(_pieces(self.template)[0])

    def check_subject(self) -> None:
        """Refuse a fact without a subject, where one is needed.

        Raises:
            InvalidRequestError: there is none.
        """
        if not self.subject:
            raise InvalidRequestError(
                f"'{self.prompt}' has no subject, and one is needed here. Give it, and write "
                f"'{SLOT}' in the template where it stands."
            )

    @classmethod
    def from_prompt(
        cls,
        prompt: str,
        subject: str,
        target_new: str | None = None,
        target_true: str | None = None,
        occurrence: int | None = None,
        joint: Joint | None = None,
    ) -> "Fact":
        """Make a fact of a whole prompt by cutting out the subject.

        Args:
            prompt: the text.
            subject: a part of it.
            target_new: see `Fact`.
            target_true: see `Fact`.
            occurrence: which occurrence of the subject is meant, from 1. By default the first; if
                there are others, that is logged.
            joint: see `Fact`.

        Raises:
            InvalidRequestError: prompt or subject is empty, or the subject does not occur in the
                prompt, or not so often.

        Examples:
            >>> fl.Fact.from_prompt("The capital of Japan is", "Japan").template
            'The capital of {} is'
        """
        check_text(prompt, "prompt")
        check_text(subject, "subject")
        if not prompt.strip():
            raise InvalidRequestError("The prompt is empty. Give at least one word.")
        if not subject.strip():
            raise InvalidRequestError("The subject is empty. Give at least one word.")
        count = prompt.count(subject)
        if count == 0:
            raise InvalidRequestError(
                f"Subject '{subject}' does not occur in prompt '{prompt}'. {_why(prompt, subject)}"
            )
        if occurrence is not None and not 1 <= occurrence <= count:
            raise InvalidRequestError(
                f"Subject '{subject}' occurs {counted(count, 'time')} in prompt '{prompt}': "
                f"occurrence={occurrence} must be from 1 to {count}."
            )
        if occurrence is None and count > 1:
            _log.warning(
                "Subject '%s' occurs %d times in prompt '%s'; the first is used. "
                "Choose another with occurrence=2.", subject, count, prompt,
            )  # fmt: skip
        pieces = prompt.split(subject)
        which = occurrence or 1
        before, after = subject.join(pieces[:which]), subject.join(pieces[which:])
        template = before + SLOT + after
        if template.count(SLOT) != 1:
            template = _doubled(before) + SLOT + _doubled(after)
        return cls(template, subject, target_new, target_true, joint)


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _why(prompt: str, subject: str) -> str:
    """Why a subject was not found in a prompt, and what to do."""
    alike = lookalike(prompt, subject)
    if alike is None:
        hint = nearest_part(prompt, subject)
        return f"Pass the subject exactly as written there.{hint}"
    return (
        f"'{alike}' there looks like it and is written with other code points: in the subject "
        f"{differences(subject, alike)}. Copy the subject from the prompt."
    )
