"""`Wrapping`: the texts around a prompt, such as those of a chat template. No tokens here."""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.errors import StorageError
from factlab.facts import Fact, words_of

# In a chat, what the user has said where the assistant's answer begins with a sentence.
REQUEST = "Tell me a fact."


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What stands before a prompt and behind it; the target follows all of that.

    Attributes:
        before: in front of the prompt.
        after: behind it; empty where the target follows the prompt itself.

    Examples:
        >>> from factlab.wrapping import Wrapping
        >>> Wrapping("Q: ", " A:").around("Where is it?")
        'Q: Where is it? A:'
    """

    before: str
    after: str = ""

    def around(self, prompt: str) -> str:
        """A prompt in its place. White space around it is left away, as templates do."""
        return self.before + (prompt.strip() if self.after else prompt.lstrip()) + self.after

    def start(self, fact: Fact) -> int:
        """Where in the text around a fact's prompt its subject begins."""
        prompt = fact.prompt
        return len(self.before) + fact.subject_start - (len(prompt) - len(prompt.lstrip()))

    def target(self, target: str) -> str:
        """A target as it is written there: how it is joined to the prompt is of the prompt only."""
        return words_of(target) if self.after else target

    def to_json(self) -> list[str]:
        """Both texts."""
        return [self.before, self.after]


# What a prompt is put behind, or into: a text goes in front of it.
Context = str | Wrapping


def context_to_json(context: Context) -> str | list[str]:
    """A text as it is, a wrapping as both of its texts."""
    return context if isinstance(context, str) else context.to_json()


def context_of_json(value: object, where: str) -> Context:
    """What `context_to_json` made JSON of.

    Args:
        value: from a file.
        where: it was found, for the message.

    Raises:
        StorageError: it is neither a text nor two.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        texts = [text for text in value if isinstance(text, str)]
        if len(texts) == len(value) == 2:
            return Wrapping(*texts)
    raise StorageError(f"{where} is damaged: a context is {value!r}, not a text nor two.")
