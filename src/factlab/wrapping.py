"""What a prompt is put behind or into, such as the texts of a chat template. No tokens here."""

import random
from dataclasses import dataclass, replace

from factlab.documents import JsonValue
from factlab.errors import StorageError
from factlab.facts import SLOT, Fact, words_of

# In a chat, what the user has said where the assistant's answer begins with a sentence.
REQUEST = "Tell me a fact."
_QUESTION_MARKS = ("?", "？", "؟")


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

    def of(self, prompt: str) -> "Wrapping":
        """Itself, for any prompt."""
        del prompt
        return self

    def start(self, fact: Fact) -> int:
        """Where in the text around a fact's prompt its subject begins."""
        prompt = fact.prompt
        return len(self.before) + fact.subject_start - (len(prompt) - len(prompt.lstrip()))

    def target(self, target: str) -> str:
        """A target as it is written there: how it is joined to the prompt is of the prompt only."""
        return words_of(target) if self.after else target

    def to_json(self) -> JsonValue:
        """Both texts."""
        return [self.before, self.after]


@dataclass(frozen=True, slots=True)
class ChatForms:
    r"""How prompts are asked in a model's own chat template.

    Attributes:
        asked: the prompt is what the user says; the assistant's answer follows.
        begun: the user has asked for a fact; the prompt is how the assistant's answer begins.

    Examples:
        >>> lm.tokenizer.chat_template = (
        ...     "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        ...     "{% if add_generation_prompt %}[assistant] {% endif %}"
        ... )
        >>> forms = lm.chat_forms()
        >>> forms.of("Where is Rome?").around("Where is Rome?")
        '[user] Where is Rome?\n[assistant] '
        >>> forms.of("Rome is in").around("Rome is in")
        '[user] Tell me a fact.\n[assistant] Rome is in'
    """

    asked: Wrapping
    begun: Wrapping

    def of(self, prompt: str) -> Wrapping:
        """The form for a prompt: a question is asked, a sentence to be completed is begun."""
        return self.asked if prompt.rstrip().endswith(_QUESTION_MARKS) else self.begun

    def to_json(self) -> dict[str, JsonValue]:
        """Both forms by name."""
        return {"asked": self.asked.to_json(), "begun": self.begun.to_json()}

    def every(self, prompt: str) -> dict[str, str]:
        """A prompt in each form that it can be asked in, by what the form is called."""
        fitting = {"asked": self.asked, "begun": self.begun}
        if self.of(prompt) is self.asked:
            del fitting["begun"]  # a question is no beginning of an answer
        return {name: form.around(prompt) for name, form in fitting.items()}


@dataclass(frozen=True, slots=True)
class Thinned:
    """A text to put a prompt behind, and which of the prompt's words to leave out there.

    Every word but the subject's, and the last before the target, is left out with the same
    probability; which ones follows from the seed and the prompt alone. What a model is to say after
    such prompts it says for more than one way of asking.

    Attributes:
        before: in front of the prompt.
        left_out: the probability.
        seed: of the choice.

    Examples:
        >>> from factlab.wrapping import Thinned
        >>> fact = fl.Fact("The official language of {} is said to be", "Togo")
        >>> [Thinned("", 0.5, seed).of(fact).prompt for seed in range(3)]
        ['The official language Togo be', 'The Togo is said be', 'official language Togo be']
    """

    before: str
    left_out: float
    seed: int

    def of(self, fact: Fact) -> Fact:
        """The fact with a thinner template."""
        draw = random.Random(f"{self.seed} {fact.template}")  # noqa: S311 - not a secret
        words = fact.template.split(" ")
        stays = [SLOT in word or draw.random() >= self.left_out for word in words[:-1]]
        kept = [word for word, stay in zip(words, [*stays, True], strict=True) if stay]
        return replace(fact, template=" ".join(kept))

    def to_json(self) -> dict[str, JsonValue]:
        """All three by name."""
        return {"before": self.before, "left_out": self.left_out, "seed": self.seed}


# What a prompt is put behind, or into: a text goes in front of it.
Context = str | Wrapping | ChatForms | Thinned


def context_to_json(context: Context) -> JsonValue:
    """A text as it is, a wrapping as both of its texts, others by their names."""
    return context if isinstance(context, str) else context.to_json()


def context_of_json(value: JsonValue, where: str) -> Context:
    """What `context_to_json` made JSON of.

    Args:
        value: from a file.
        where: it was found, for the message.

    Raises:
        StorageError: it is none of these.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"asked", "begun"}:
        return ChatForms(*(_wrapping(value[name], where) for name in ("asked", "begun")))
    if isinstance(value, dict):
        match value:
            case {"before": str(before), "left_out": float(left_out), "seed": int(seed)}:
                return Thinned(before, left_out, seed)
            case _:
                pass
    return _wrapping(value, where)


def _wrapping(value: JsonValue, where: str) -> Wrapping:
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or not len(texts) == len(value) == 2:
        raise StorageError(f"{where} is damaged: {value!r} is not what stands around a prompt.")
    return Wrapping(*texts)
