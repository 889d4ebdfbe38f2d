"""`RippleTables`: words and values that ripple queries need beside facts and their phrasing.

Three tab-separated files, of which the first line names the columns:

| file | columns | what |
|---|---|---|
| `ripple.tsv` | relation, kind, pattern | words of a relation; `[X]` is the subject, `[Y]` the object |
| `aliases.tsv` | subject, alias | other names of a subject, or of an object |
| `second_values.tsv` | relation, subject, object | all values of a relation that has several |

| kind | pattern | such as |
|---|---|---|
| `noun` | describes the object by the subject | the country where [X] is located |
| `inverse` | ends where the subject follows | [Y] is the birthplace of [X] |
| `negated` | denies the fact, up to the object | [X] is not located in the country of [Y] |
| `hop` | asks of a described subject, where the rewriting prompt would read badly | [X] flows into the [Y] |
"""  # noqa: E501 - a table

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from factlab.data.phrasing import read_patterns
from factlab.data.relations import OBJECT, SUBJECT, as_template, read_rows
from factlab.errors import StorageError
from factlab.facts import SLOT

WORDS, ALIASES, VALUES = "ripple.tsv", "aliases.tsv", "second_values.tsv"
_WANTED = {
    "noun": f"{SUBJECT} once and no {OBJECT}",
    "inverse": f"{OBJECT} once, and {SUBJECT} behind it at the end",
    "negated": f"{SUBJECT} once, and {OBJECT} behind it at the end",
    "hop": f"{SUBJECT} once, and {OBJECT} behind it at the end",
}


@dataclass(frozen=True, slots=True)
class RippleWords:
    """Words of one relation; `{}` stands for the subject, in `inverse` for the object.

    Attributes:
        noun: what describes the object; empty if there is nothing.
        inverse: a prompt for the subject, likewise.
        hop: a prompt for the object of a subject that is described; by default the rewriting one.
        negated: prompts that deny the fact.
    """

    noun: str = ""
    inverse: str = ""
    hop: str = ""
    negated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RippleTables:
    """What ripple queries are made of beside facts.

    Attributes:
        words: by relation.
        aliases: other names, by the name that facts use.
        values: all values of a subject, by (relation, subject), where there are several.
    """

    words: Mapping[str, RippleWords] = field(default_factory=dict[str, RippleWords])
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    values: Mapping[tuple[str, str], tuple[str, ...]] = field(
        default_factory=dict[tuple[str, str], tuple[str, ...]]
    )

    def names(self, object_: str) -> tuple[str, ...]:
        """A name and its aliases."""
        return (object_, *self.aliases.get(object_, ()))


def load_words(path: str | Path) -> dict[str, RippleWords]:
    """Read a file with the columns relation, kind, pattern; by relation.

    Raises:
        StorageError: the file is missing, not UTF-8, lacks a column, has a pattern of an unknown
            kind or one that does not suit its kind, or two where one can be.
    """
    found = read_patterns(path, _WANTED, _template)
    for relation_id, kinds in found.items():
        twice = [kind for kind, made in kinds.items() if kind != "negated" and len(made) > 1]
        if twice:
            raise StorageError(
                f"'{path}': relation {relation_id} has two patterns of kind {twice[0]}. Keep one."
            )
    return {
        relation_id: RippleWords(
            **{kind: one for kind in ("noun", "inverse", "hop") for one in kinds.get(kind, ())},
            negated=tuple(kinds.get("negated", ())),
        )
        for relation_id, kinds in found.items()
    }


def load_aliases(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read a file with the columns subject, alias; by subject.

    Raises:
        StorageError: the file is missing, not UTF-8, lacks a column, holds an empty field, or gives
            one alias to two subjects, or a subject itself as its alias.
    """
    found: dict[str, dict[str, None]] = defaultdict(dict)
    owner: dict[str, str] = {}
    for row in read_rows(Path(path), ("subject", "alias")):
        subject, alias = row["subject"].strip(), row["alias"].strip()
        if owner.setdefault(alias, subject) != subject or alias == subject:
            raise StorageError(
                f"'{path}': '{alias}' is given as an alias of '{subject}', and is "
                f"{'its own name' if alias == subject else f'one of {owner[alias]!r}'}. "
                "An alias must tell who is meant: remove it."
            )
        found[subject][alias] = None
    return {subject: tuple(aliases) for subject, aliases in found.items()}


def load_values(path: str | Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Read a file with the columns relation, subject, object; by relation and subject.

    Raises:
        StorageError: the file is missing, not UTF-8, lacks a column or holds an empty field.
    """
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row in read_rows(Path(path), ("relation", "subject", "object")):
        found[row["relation"].strip(), row["subject"].strip()][row["object"].strip()] = None
    return {key: tuple(values) for key, values in found.items()}


def _template(kind: str, pattern: str) -> str | None:
    """A pattern as a template with one slot; None if it does not suit its kind."""
    if kind in ("negated", "hop"):
        return as_template(pattern)
    if pattern.count(SUBJECT) != 1 or SLOT in pattern:
        return None
    if kind == "noun":
        return None if OBJECT in pattern else pattern.replace(SUBJECT, SLOT).strip()
    before, _, after = pattern.partition(SUBJECT)
    if any(letter.isalnum() for letter in after) or before.count(OBJECT) != 1 or OBJECT in after:
        return None
    return before.replace(OBJECT, SLOT).rstrip()
