"""Questions for records that bring none of their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from factlab.data.phrasing import Phrasing, load_phrasing
from factlab.data.records import Record
from factlab.data.shipped import FOLDER
from factlab.facts import SLOT


@dataclass(frozen=True, slots=True)
class Questions:
    """What to ask of a record whose answer is its fact.

    The built-in records are those of earlier versions, hash and all, and hold no questions. They
    are phrased in the words of their relation, and so are these.

    Attributes:
        phrasing: words of each relation.
    """

    phrasing: Mapping[str, Phrasing]

    @classmethod
    def load(cls) -> "Questions":
        """Those of the relations that come with factlab.

        Raises:
            StorageError: the file is missing or broken.
        """
        return cls(load_phrasing(FOLDER / "templates.tsv"))

    def of(self, record: Record) -> tuple[str, ...]:
        """The record's own questions; or if it has none, and is in the words of a relation, its.

        A zsRE record has none beside its rewriting prompt, which is a question itself.
        """
        if record.question_prompts:
            return tuple(record.question_prompts)
        return _filled(self._words(record), record.fact.subject)

    def beside(self, record: Record) -> tuple[str, ...]:
        """For each prompt about another subject a question, where the prompt is in those words too.

        The relation's questions take turns; a prompt in other words stays as it is.
        """
        words = self._words(record)
        prompts = record.neighborhood_prompts
        asked = (_filled(words, _subject_of(prompt, words)) for prompt in prompts)
        return tuple(
            questions[i % len(questions)] if questions else prompt
            for i, (prompt, questions) in enumerate(zip(prompts, asked, strict=True))
        )

    def _words(self, record: Record) -> Phrasing:
        """Those of a record's relation, if the record is in them; else none."""
        words = self.phrasing.get(record.relation_id, Phrasing())
        return words if record.fact.template in words.prompts else Phrasing()


def _filled(words: Phrasing, subject: str) -> tuple[str, ...]:
    """The questions about a subject; none about nothing."""
    if not subject:
        return ()
    return tuple(question.replace(SLOT, subject) for question in words.question)


def _subject_of(prompt: str, words: Phrasing) -> str:
    """What a prompt is about that is in the words of a relation; empty if it is not.

    Of several templates that fit, it is of the longest.
    """
    fitting: list[tuple[int, str]] = []
    for template in words.prompts:
        before, _, after = template.partition(SLOT)
        length = len(before) + len(after)
        if len(prompt) > length and prompt.startswith(before) and prompt.endswith(after):
            fitting.append((length, prompt[len(before) : len(prompt) - len(after)]))
    return max(fitting, default=(0, ""))[1]
