"""`RippleWorld`: true facts and the words for them, looked up in every direction."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from factlab.arguments import checked
from factlab.data.fact_source import FactSource
from factlab.data.phrasing import Phrasing, load_any_phrasing
from factlab.data.relations import Triple, load_triples
from factlab.data.ripple.tables import (
    ALIASES,
    VALUES,
    WORDS,
    RippleTables,
    RippleWords,
    load_aliases,
    load_values,
    load_words,
)
from factlab.data.shipped import FOLDER
from factlab.errors import StorageError
from factlab.facts import SLOT, Fact

_FACTS, _PHRASING = "facts.tsv", "templates.tsv"
_NO_WORDS = RippleWords()


@dataclass(frozen=True, slots=True)
class RippleWorld:
    """What is true without any edit, and how to say it.

    Attributes:
        source: the facts.
        tables: words and values beside them.
        objects_of: the facts by their object.
    """

    source: FactSource
    tables: RippleTables
    objects_of: Mapping[str, tuple[Triple, ...]]

    @classmethod
    def of(
        cls, triples: Iterable[Triple], phrasing: Mapping[str, Phrasing], tables: RippleTables
    ) -> "RippleWorld":
        """Index facts; those that are ambiguous or lack words are left out, see `FactSource`."""
        source = FactSource.of(triples, phrasing)
        by_object: dict[str, list[Triple]] = {}
        for triple in source.triples:
            by_object.setdefault(triple.object, []).append(triple)
        return cls(source, tables, {name: tuple(facts) for name, facts in by_object.items()})

    @classmethod
    def load(cls, folder: str | Path | None = None) -> "RippleWorld":
        """Read the facts and tables that come with factlab, or some of one's own.

        Args:
            folder: with `facts.tsv`, `templates.tsv`, `ripple.tsv`, `aliases.tsv` or
                `second_values.tsv`; for each that it lacks, the built-in file is read.

        Raises:
            StorageError: the folder is none or has none of these files, or one of them is broken.
        """
        names = (_FACTS, _PHRASING, WORDS, ALIASES, VALUES)
        own = FOLDER if folder is None else Path(folder)
        if not any((own / name).is_file() for name in names):
            raise StorageError(
                f"'{own}' is no folder with ripple tables. It needs one or more of the files "
                f"{', '.join(names)}."
            )
        facts, templates, words, aliases, values = (
            own / name if (own / name).is_file() else FOLDER / name for name in names
        )
        tables = RippleTables(load_words(words), load_aliases(aliases), load_values(values))
        return cls.of(load_triples(facts), load_any_phrasing(templates), tables)

    @property
    def digest(self) -> str:
        """SHA-256 of the facts, and of the words and values."""
        tables = self.tables
        whole = [
            [(t.relation_id, t.subject, t.object) for t in self.source.triples],
            *([*each.items()] for each in (tables.words, tables.aliases, tables.values)),
        ]
        return hashlib.sha256(repr(whole).encode()).hexdigest()

    # -- words ------------------------------------------------------------------------------

    def words(self, relation_id: str) -> RippleWords:
        """What there is beside the phrasing of a relation."""
        return self.tables.words.get(relation_id, _NO_WORDS)

    def prompt(self, relation_id: str, subject: str) -> str:
        """How a fact is asked for; empty if there are no words."""
        phrasing = self.source.phrasing.get(relation_id, Phrasing())
        template = next(iter(phrasing.prompts), "")
        return filled(template, subject) if template else ""

    def relation_of(self, fact: Fact) -> str:
        """The relation whose words a fact is asked in; empty if none has them, or several do."""
        template = fact.template.strip()
        found = [
            relation_id
            for relation_id, phrasing in self.source.phrasing.items()
            if template in phrasing.prompts
        ]
        return found[0] if len(found) == 1 else ""

    def described(self, relation_id: str, subject: str) -> str:
        """The object without its name: the country where Marseille is located; or nothing."""
        return self.words(relation_id).noun.replace(SLOT, subject, 1)

    def prompt_of_described(self, relation_id: str, description: str) -> str:
        """A prompt about something that is described; empty if there are no words."""
        hop = self.words(relation_id).hop
        return filled(hop, description) if hop else self.prompt(relation_id, description)


@checked()
def load_ripple_world(folder: str | Path | None = None) -> RippleWorld:
    """Facts, words and values that ripple queries are made of.

    Args:
        folder: with files of one's own; see `RippleWorld.load`.

    Raises:
        StorageError: the folder has none of the files, or one of them is broken.

    Examples:
        >>> world = fl.data.load_ripple_world()
        >>> world.described("P17", "Marseille")
        'the country where Marseille is located'
    """
    return RippleWorld.load(folder)


def filled(template: str, name: str) -> str:
    """A template with a name in its slot, as one would write it.

    A description that brings its own article takes the template's place of one, and the first
    letter of a sentence is a capital.

    >>> filled("The {} flows into the", "the river on which Paris lies")
    'The river on which Paris lies flows into the'
    """
    before, _, after = template.partition(SLOT)
    if name.startswith("the ") and before.lower().endswith("the "):
        before = before[:-4]
    text = before + name + after
    return text[:1].upper() + text[1:] if name.startswith("the ") and not before else text
