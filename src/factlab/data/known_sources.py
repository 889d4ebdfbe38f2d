"""`known_facts`: prompts to trace, by name or from a file.

`builtin` are the rewriting prompts of the built-in records. `builtin-reasoning` is what a model may
know besides facts, in prompts written for factlab: their answers follow from numbers, from the
calendar, from directions and places, or from a sentence before (`builtin/reasoning.tsv`). Each has
a subject all the same, the words to corrupt: two operands, a day, a direction, a premise.

A model need not know them: `factlab.tracing.knows` says what it does.
"""

from pathlib import Path

from factlab.arguments import checked
from factlab.data.known import KnownFact, load_known
from factlab.data.relations import OBJECT, SUBJECT, as_template, read_rows
from factlab.data.shipped import FOLDER, Shipped
from factlab.errors import InvalidRequestError, StorageError, nearest
from factlab.facts import Fact

BUILTIN, REASONING = "builtin", "builtin-reasoning"
BUILTIN_KNOWN = (BUILTIN, REASONING)


@checked()
def known_facts(source: str | Path, relation: str | None = None) -> list[KnownFact]:
    """Prompts with their right answers: of a name, or of a file; those of a relation if wanted.

    Args:
        source: `builtin`, `builtin-reasoning`, or a file that `load_known` reads.
        relation: those of this one only: such as P30, and of `builtin-reasoning` one of
            arithmetic, temporal, spatial, logical.

    Raises:
        InvalidRequestError: none is of that relation.
        StorageError: the file cannot be read, or a fact in it is wrong.

    Examples:
        >>> asked = fl.data.known_facts("builtin-reasoning", relation="temporal")
        >>> asked[0].prompt, asked[0].subject, asked[0].attribute
        ('If today is Thursday, tomorrow is', 'Thursday', 'Friday')
    """
    name = str(source)
    if name not in BUILTIN_KNOWN:
        if not Path(source).exists() and nearest(name, BUILTIN_KNOWN) and not Path(source).suffix:
            raise StorageError(
                f"There is neither a file '{name}' nor a data set of that name."
                f"{nearest(name, BUILTIN_KNOWN)}"
            )
        known = load_known(source)
    else:
        known = _builtin() if name == BUILTIN else load_reasoning()
    if relation is None:
        return known
    kept = [fact for fact in known if fact.relation_id == relation]
    if not kept:
        there = sorted({fact.relation_id for fact in known})
        shown = ", ".join(there[:12]) + (" …" if len(there) > 12 else "")
        raise InvalidRequestError(
            f"'{name}' has no facts of the relation '{relation}'.{nearest(relation, there)} "
            f"There is {shown or 'none'}."
        )
    return kept


def _builtin() -> list[KnownFact]:
    return [
        _as_known(record.case_id, record.fact, record.relation_id)
        for record in Shipped.load().counterfact()
    ]


def load_reasoning(path: Path = FOLDER / "reasoning.tsv") -> list[KnownFact]:
    """Read a file with the columns relation, pattern, subject, object: a prompt a line.

    Raises:
        StorageError: it is missing or broken, or a pattern does not end in its object.
    """
    known: list[KnownFact] = []
    for row in read_rows(path, ("relation", "pattern", "subject", "object")):
        template = as_template(row["pattern"])
        if template is None:
            raise StorageError(
                f"'{path}': the pattern '{row['pattern']}' needs {SUBJECT} once, and {OBJECT} "
                "behind it at its end."
            )
        fact = Fact(template, row["subject"], target_true=row["object"])
        known.append(_as_known(len(known), fact, row["relation"]))
    return known


def _as_known(number: int, fact: Fact, relation_id: str) -> KnownFact:
    return KnownFact(
        known_id=number,
        subject=fact.subject,
        attribute=fact.target_true or "",
        template=fact.template,
        prediction="",
        prompt=fact.prompt.rstrip(" "),
        relation_id=relation_id,
    )
