"""Ripple queries for records, and which of them are asked where there are many."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from factlab.arguments import checked
from factlab.data.records import Record
from factlab.data.ripple.axes import AXES, Edited
from factlab.data.ripple.world import RippleWorld
from factlab.data.ripple_query import Axis, RippleQuery


@dataclass(frozen=True, slots=True)
class RippleRecords:
    """Records with ripple queries.

    Attributes:
        records: in their order.
        skipped: how many records have no query of an axis, by axis and reason.
    """

    records: tuple[Record, ...]
    skipped: Mapping[tuple[Axis, str], int]

    @property
    def n_queries(self) -> int:
        """How many there are in all."""
        return sum(len(record.ripple) for record in self.records)

    def by_axis(self) -> dict[Axis, int]:
        """How many there are of each axis, in the order of the axes."""
        counts = Counter(query.axis for record in self.records for query in record.ripple)
        return {axis: counts[axis] for axis in AXES if counts[axis]}


@checked()
def with_ripple(
    records: Sequence[Record], world: RippleWorld | None = None, seed: int = 0
) -> RippleRecords:
    """Put ripple queries beside the facts of records.

    Args:
        records: those that have queries already, as files of other data sets give them, keep these
            and get no others.
        world: the facts and words to make them of; by default those that come with factlab.
        seed: of the candidates that are drawn.

    Examples:
        >>> made = fl.data.with_ripple(fl.load_records("builtin", limit=5))
        >>> "choice" in made.by_axis()
        True
    """
    world = world or RippleWorld.load()
    skipped = Counter[tuple[Axis, str]]()
    made: list[Record] = []
    for record in records:
        if record.ripple or record.fact.target_new is None:
            made.append(record)
            continue
        queries: list[RippleQuery] = []
        for axis, make in AXES.items():
            found = make(Edited(record, world, seed))
            if isinstance(found, str):
                skipped[axis, found] += 1
            else:
                queries += found
        made.append(replace(record, ripple=tuple(dict.fromkeys(queries))))
    return RippleRecords(tuple(made), dict(skipped))


def asked_queries(record: Record, per_axis: int, seed: int) -> tuple[RippleQuery, ...]:
    """The ripple queries of a record that are asked: of an axis with more, some that a seed draws.

    Which they are depends on the record and the seed, and on nothing else.

    Args:
        record: with its queries.
        per_axis: most queries of one axis.
        seed: of the draws.
    """
    chosen: list[int] = []
    for axis in dict.fromkeys(query.axis for query in record.ripple):
        numbers = [i for i, query in enumerate(record.ripple) if query.axis == axis]
        if len(numbers) > per_axis:
            key = repr((seed, axis, record.case_id, record.fact.prompt))
            numbers = random.Random(key).sample(numbers, per_axis)  # noqa: S311 - not a secret
        chosen += numbers
    return tuple(record.ripple[i] for i in sorted(chosen))
