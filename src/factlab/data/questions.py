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
        words = self.phrasing.get(record.relation_id)
        fact = record.fact
        if words is None or fact.template not in words.prompts:
            return ()
        return tuple(question.replace(SLOT, fact.subject) for question in words.question)
