"""`Continuation`: a prompt with what follows it, and where each token that follows is predicted."""

from dataclasses import dataclass, replace

from factlab.errors import TokenizationError
from factlab.facts import LookupToken, TokenSpan
from factlab.tokens import Tokens

_NONE = TokenSpan(0, 0)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and a target behind it, as tokens; a prompt alone has no target.

    Attributes:
        inputs: what goes through the model: all tokens but the target's last, which is predicted
            and never read.
        reads: positions whose next token is looked at. Behind a prompt they are its last position
            and those of the target's inputs.
        target_ids: the token that should come at each of these; empty where there is no target.
        lookup: position of the token that an edit acts on; the prompt's last without a subject.
        subject: the subject's tokens; empty without one.
    """

    inputs: tuple[int, ...]
    reads: tuple[int, ...]
    target_ids: tuple[int, ...]
    lookup: int
    subject: TokenSpan = _NONE

    @classmethod
    def behind(
        cls, prompt_ids: tuple[int, ...], target_ids: tuple[int, ...] = ()
    ) -> "Continuation":
        """Put a target behind a prompt, both as tokens.

        >>> Continuation.behind((5, 6), (7, 8)).inputs
        (5, 6, 7)
        """
        first = len(prompt_ids) - 1
        reads = range(first, first + max(1, len(target_ids)))
        return cls((*prompt_ids, *target_ids[:-1]), tuple(reads), target_ids, first)

    @property
    def n_prompt(self) -> int:
        """How many tokens are the prompt's."""
        return self.reads[0] + 1

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's tokens."""
        return self.inputs[: self.n_prompt]

    @property
    def subject_ids(self) -> tuple[int, ...]:
        """The subject's tokens."""
        return self.inputs[self.subject.start : self.subject.stop]

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens, the target's last one included."""
        return (*self.inputs, *self.target_ids[-1:])

    def without_target(self) -> "Continuation":
        """The same positions, with no token that should come there."""
        return replace(self, target_ids=())


def continuation_of(
    tokens: Tokens,
    subject: TokenSpan | None = None,
    lookup: LookupToken = "last",
    first_token: bool = False,
) -> Continuation:
    """What a tokenised text reads and predicts.

    Args:
        tokens: of a prompt, with or without a target.
        subject: its tokens.
        lookup: which token an edit acts on, if there is a subject.
        first_token: leave away all of the target but its first token.

    Raises:
        TokenizationError: subject and target share a token.
    """
    target_ids = tokens.ids[tokens.n_prompt :]
    if first_token:
        target_ids = target_ids[:1]
    made = Continuation.behind(tokens.ids[: tokens.n_prompt], target_ids)
    if subject is None:
        return made
    if subject.last >= tokens.n_prompt:
        raise TokenizationError(
            f"In '{tokens.text}' the end of the subject and the target merge into one token. "
            "Put words between them in the template, or a space: joint='space'."
        )
    return replace(made, subject=subject, lookup=_position(subject, tokens.n_prompt, lookup))


def _position(subject: TokenSpan, n_prompt: int, lookup: LookupToken) -> int:
    """Where the token is. Where the subject ends the prompt, there is none after it but its own."""
    match lookup:
        case "first":
            return subject.start
        case "last":
            return subject.last
        case "first_after_last":
            return min(subject.stop, n_prompt - 1)
        case "end":
            return n_prompt - 1
