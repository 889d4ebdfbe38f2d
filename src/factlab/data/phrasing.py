"""`Phrasing`: the words for a relation, from patterns written by people.

In a file, `[X]` stands for the subject and `[Y]` for the object. Of the kinds in `templates.tsv`,
`rewrite` and `paraphrase` end with `[Y]`, which is where a model goes on; `generation` begins a
text and `question` asks, both without `[Y]`; `statement` is a whole sentence with both.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from factlab.data.relations import OBJECT, SUBJECT, as_template, load_templates, read_rows
from factlab.errors import StorageError, nearest
from factlab.facts import SLOT
from factlab.storage import read_text

# The kinds, and what a pattern of each holds.
_COMPLETED = f"{SUBJECT} once, and {OBJECT} behind it at the end"
_WANTED = {
    "rewrite": _COMPLETED,
    "paraphrase": _COMPLETED,
    "generation": f"{SUBJECT} once and no {OBJECT}",
    "question": f"{SUBJECT} once and no {OBJECT}",
    "statement": f"{SUBJECT} and {OBJECT} once each",
}


@dataclass(frozen=True, slots=True)
class Phrasing:
    """Templates of one relation, with `{}` for the subject.

    Attributes:
        rewrite: the prompts that facts are asked with; if there are none, a paraphrase is drawn.
        paraphrase: the same in other words.
        generation: beginnings of texts about the subject.
        question: questions for the object.
        statement: sentences; `[Y]` is the object.
    """

    rewrite: tuple[str, ...] = ()
    paraphrase: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()
    question: tuple[str, ...] = ()
    statement: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """All that end where the object would follow, each once."""
        return tuple(dict.fromkeys((*self.rewrite, *self.paraphrase)))

    def statements(self, subject: str, object_: str) -> list[str]:
        """The fact as sentences; completed prompts where there are no statements."""
        sentences = self.statement or tuple(f"{prompt} {OBJECT}." for prompt in self.prompts)
        # The subject last: it may hold a bracket, a template holds one slot only.
        return [s.replace(OBJECT, object_, 1).replace(SLOT, subject, 1) for s in sentences]


def read_patterns(
    path: str | Path, kinds: Mapping[str, str], template: Callable[[str, str], str | None]
) -> dict[str, dict[str, list[str]]]:
    """The templates of a file with the columns relation, kind, pattern; by relation and kind.

    Args:
        path: the file.
        kinds: which there are, and what a pattern of each holds.
        template: makes a template of a kind and a pattern; None of one that does not suit.

    Raises:
        StorageError: the file is missing, not UTF-8, lacks a column, or has a pattern of an unknown
            kind or one that does not suit its kind.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(Path(path), ("relation", "kind", "pattern")):
        relation_id, kind, pattern = row["relation"], row["kind"], row["pattern"]
        if kind not in kinds:
            raise StorageError(
                f"'{path}': pattern '{pattern}' is of kind '{kind}', which is none of "
                f"{', '.join(kinds)}.{nearest(kind, kinds)}"
            )
        made = template(kind, pattern)
        if made is None:
            raise StorageError(
                f"'{path}': pattern '{pattern}' of relation {relation_id} does not suit its kind. "
                f"Of kind {kind}, it holds {kinds[kind]}."
            )
        found[relation_id][kind].append(made)
    return found


def load_phrasing(path: str | Path) -> dict[str, Phrasing]:
    """Read a file with the columns relation, kind, pattern; by relation.

    Raises:
        StorageError: the file is missing, not UTF-8, lacks a column, or has a pattern of an unknown
            kind or one that does not suit its kind.
    """
    found = read_patterns(path, _WANTED, _template)
    if not found:
        raise StorageError(f"'{path}' holds no patterns.")
    return {
        relation_id: Phrasing(**{kind: tuple(templates) for kind, templates in kinds.items()})
        for relation_id, kinds in found.items()
    }


def load_any_phrasing(
    path: str | Path, others: Mapping[str, Phrasing] | None = None
) -> dict[str, Phrasing]:
    """Read a file of patterns, with or without a column that names their kind.

    Args:
        path: the file.
        others: see `phrasing_of_templates`; for a file without kinds.

    Raises:
        StorageError: see `load_phrasing` and `load_templates`.
    """
    columns = read_text(Path(path)).partition("\n")[0].strip().split("\t")
    if "kind" in columns:
        return load_phrasing(path)
    return phrasing_of_templates(load_templates(path), others)


def phrasing_of_templates(
    templates: Mapping[str, Sequence[str]], others: Mapping[str, Phrasing] | None = None
) -> dict[str, Phrasing]:
    """Phrasing of a source that has prompts only, such as ParaRel.

    Args:
        templates: prompts by relation, as `load_templates` gives them.
        others: where generation templates may be had of relations with the same id.
    """
    borrowed = others or {}
    return {
        relation_id: Phrasing(
            paraphrase=tuple(prompts),
            generation=borrowed.get(relation_id, Phrasing()).generation,
        )
        for relation_id, prompts in templates.items()
    }


def load_about(path: str | Path) -> dict[str, str]:
    """Read a file with the columns object, about: a few sentences about each object.

    Raises:
        StorageError: the file is missing, not UTF-8, lacks a column or holds an empty field.
    """
    return {row["object"]: row["about"] for row in read_rows(Path(path), ("object", "about"))}


def load_asides(path: str | Path) -> tuple[str, ...]:
    """Read a text file with one unrelated sentence per line.

    Raises:
        StorageError: the file is missing or not UTF-8.
    """
    return tuple(line.strip() for line in read_text(Path(path)).splitlines() if line.strip())


def _template(kind: str, pattern: str) -> str | None:
    if kind in ("rewrite", "paraphrase"):
        return as_template(pattern)
    n_objects = 1 if kind == "statement" else 0
    if pattern.count(SUBJECT) != 1 or pattern.count(OBJECT) != n_objects or SLOT in pattern:
        return None
    return pattern.replace(SUBJECT, SLOT).strip()
