"""What a set of records holds, as in table 2 of the ROME paper: different items, counted."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from factlab.data.records import Record
from factlab.data.relation_names import RELATION_NAMES
from factlab.errors import InvalidRequestError, counted

_ITEMS: dict[str, Callable[[Record], Iterable[object]]] = {
    "records": lambda r: (r.case_id,),
    "subjects": lambda r: (r.fact.subject,),
    "objects": lambda r: filter(None, (r.fact.target_new, r.fact.target_true)),
    "counterfactual statements": lambda r: ((r.fact.prompt, r.fact.target_new),),
    "paraphrase prompts": lambda r: r.paraphrase_prompts,
    "neighborhood prompts": lambda r: r.neighborhood_prompts,
    "attribute prompts": lambda r: r.attribute_prompts,
    "generation prompts": lambda r: r.generation_prompts,
    "question prompts": lambda r: r.question_prompts,
    "ripple queries": lambda r: r.ripple,
}
_IF_ANY = ("question prompts", "ripple queries")


@dataclass(frozen=True, slots=True)
class ItemCount:
    """How many different ones there are of something.

    Attributes:
        item: what is counted.
        total: in all records.
        per_relation: mean over relations of how many there are in one.
        per_record: mean over records of how many there are in one.
    """

    item: str
    total: int
    per_relation: float
    per_record: float


@dataclass(frozen=True, slots=True)
class RelationCount:
    """What there is of one relation.

    Attributes:
        relation_id: such as P36; empty where records do not say.
        name: such as capital; empty where it is not known.
        counts: how many different ones, by item.
        known_share: of how many records the model knows the true fact, 0–1; None if it was not
            asked.
    """

    relation_id: str
    name: str
    counts: dict[str, int]
    known_share: float | None = None


@dataclass(frozen=True, slots=True)
class Composition:
    """What a set of records holds.

    Attributes:
        items: over all records.
        relations: by relation, the one with most records first.
        known_share: of how many records the model knows the true fact, 0–1; None if it was not
            asked.
    """

    items: tuple[ItemCount, ...]
    relations: tuple[RelationCount, ...]
    known_share: float | None = None


def composition(records: Sequence[Record], known: Sequence[bool] | None = None) -> Composition:
    """Count what records hold; questions and ripple queries where there are any.

    Args:
        records: the records.
        known: whether a model knows the true fact of each.

    Raises:
        InvalidRequestError: there are no records, or not as many flags.
    """
    if not records or (known is not None and len(known) != len(records)):
        raise InvalidRequestError(
            "Give at least one record, and a flag for each or none at all: "
            f"{counted(len(records), 'record')} and {counted(len(known or ()), 'flag')} were given."
        )
    counted_items = [
        item for item in _ITEMS if item not in _IF_ANY or any(map(_ITEMS[item], records))
    ]
    by_relation: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        by_relation[record.relation_id].append(i)
    relations = [
        RelationCount(
            relation_id,
            RELATION_NAMES.get(relation_id, ""),
            {item: _different(item, [records[i] for i in places]) for item in counted_items},
            _share(known, places),
        )
        for relation_id, places in by_relation.items()
    ]
    items = [
        ItemCount(
            item,
            _different(item, records),
            sum(relation.counts[item] for relation in relations) / len(relations),
            sum(_different(item, [record]) for record in records) / len(records),
        )
        for item in counted_items
    ]
    relations.sort(key=lambda relation: (-relation.counts["records"], relation.relation_id))
    return Composition(tuple(items), tuple(relations), _share(known, range(len(records))))


def _different(item: str, records: Sequence[Record]) -> int:
    return len({value for record in records for value in _ITEMS[item](record)})


def _share(known: Sequence[bool] | None, places: Sequence[int]) -> float | None:
    return None if known is None else sum(known[i] for i in places) / len(places)
