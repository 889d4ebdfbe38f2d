"""What a study varies, and which records it takes; nothing here needs PyTorch.

Each config has `chosen`, which refuses what cannot be studied before a model is loaded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from factlab.config import Config
from factlab.data.records import Record
from factlab.editing.method_choice import MethodChoice, MethodRequest
from factlab.errors import InvalidRequestError, counted, nearest
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.studies.method_specs import StudiedMethod, methods_listed
from factlab.words import CountList, NumberList

StudyKind = Literal["scaling", "relations", "layers", "mixture"]

_LIKELIHOODS = MeasureConfig(n_generated=0)


class OneMethodConfig(Config):
    """What studies of one method have in common: all facts of a point are one edit.

    Attributes:
        method: with its settings.
        measure: what to measure beside likelihoods.
    """

    method: MethodRequest = MethodRequest(name="memit")
    measure: MeasureConfig = _LIKELIHOODS

    def choice(self) -> MethodChoice:
        """The method with its settings.

        Raises:
            InvalidRequestError: there is no such method or setting, or it writes one fact at a
                time.
            StorageError: a trained editor cannot be read.
        """
        found = self.method.chosen()
        found.method.check_many()
        return found


class RelationsConfig(OneMethodConfig):
    """Which relations to compare: for each, facts of it alone in one edit.

    Attributes:
        relations: such as P36; by default all that have records enough.
        least: leave out relations with fewer records.
        per_relation: take so many records of each, the first ones.
    """

    relations: tuple[str, ...] = ()
    least: PositiveInt = 20
    per_relation: PositiveInt = 300

    @field_validator("relations", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _words(value)

    def chosen(self, records: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
        """The records of each relation, in the order of their names.

        Raises:
            InvalidRequestError: a relation is not among the records or has too few, or none has
                enough.
        """
        by_relation = records_by_relation(records)
        for relation in self.relations:
            check_relation(relation, by_relation, self.least, "Lower --least.")
        wanted = self.relations or by_relation
        kept = {
            relation: tuple(by_relation[relation][: self.per_relation])
            for relation in sorted(wanted, key=relation_order)
            if len(by_relation[relation]) >= self.least
        }
        if not kept:
            most = max(map(len, by_relation.values()), default=0)
            raise InvalidRequestError(
                f"No relation has {counted(self.least, 'record')}; the largest has {most}. "
                "Lower --least, or give other records."
            )
        return kept


class MixtureConfig(OneMethodConfig):
    """Which relations to mix: n facts of each alone, and n of which every other is of each.

    Attributes:
        pairs: of relations, such as P19:P27; by default of the largest ones.
        numbers: of facts; each is an edit of its own.
        n_pairs: how many pairs, if none are named.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    numbers: CountList = Field(default=(4, 10, 20, 30), min_length=1)
    n_pairs: PositiveInt = 3

    @field_validator("pairs", mode="before")
    @classmethod
    def _paired(cls, value: Any) -> Any:
        """Read P19:P27,P36:P37."""
        pairs: list[Any] = []
        for one in _words(value):
            names = [name.strip() for name in one.split(":")] if isinstance(one, str) else one
            if len(names) != 2 or not all(names) or names[0] == names[1]:
                raise InvalidRequestError(
                    f"'{one}' is no pair of relations. Write two with a colon between, such as "
                    "P19:P27."
                )
            pairs.append(tuple(names))
        return tuple(pairs)

    @field_validator("numbers")
    @classmethod
    def _two_or_more(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 2:
            raise InvalidRequestError(f"{min(value)} facts cannot be mixed. Give 2 or more.")
        return tuple(sorted(set(value)))

    def chosen(self, records: Sequence[Record]) -> dict[tuple[str, str], tuple[Record, ...]]:
        """The pairs, each with as many records of either as are needed, the first relation's first.

        Raises:
            InvalidRequestError: a relation is not among the records, or has too few; or there are
                not two with enough.
        """
        by_relation, most = records_by_relation(records), self.numbers[-1]
        for relation in dict.fromkeys(one for pair in self.pairs for one in pair):
            check_relation(relation, by_relation, most, "Choose smaller numbers of facts.")
        pairs = self.pairs or self._largest(by_relation)
        return {
            pair: tuple(one for name in pair for one in by_relation[name][:most]) for pair in pairs
        }

    def _largest(self, by_relation: Mapping[str, Sequence[Record]]) -> list[tuple[str, str]]:
        """The largest relation with the next, the third with the fourth, and so on."""
        names = sorted(
            (name for name, own in by_relation.items() if len(own) >= self.numbers[-1]),
            key=lambda name: (-len(by_relation[name]), relation_order(name)),
        )
        if len(names) < 2:
            raise InvalidRequestError(
                f"There are not two relations with {counted(self.numbers[-1], 'record')} each. "
                "Choose smaller numbers of facts, or give other records."
            )
        return list(zip(names[::2], names[1::2], strict=False))[: self.n_pairs]


class LayersConfig(OneMethodConfig):
    """Which layers to edit: so many, up to a top one; those of the method's settings are replaced.

    Attributes:
        counts: numbers of edited layers.
        tops: the last of them, 0-based; by default about ten, spread over the model.
        n_facts: written in each edit.
    """

    counts: CountList = Field(default=(1, 2, 3, 5), min_length=1)
    tops: NumberList | None = Field(default=None, min_length=1)
    n_facts: PositiveInt = 100

    N_TOPS: ClassVar[int] = 10

    def choice(self) -> MethodChoice:
        """The method with its settings; errors as of any study, and if it edits one layer."""
        found = super().choice()
        if found.method.config.layer_setting != "layers":
            raise InvalidRequestError(
                f"Method '{found.method.name}' does not edit several layers. Use memit, emmet or "
                "alphaedit."
            )
        return found

    def chosen(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """The records to edit, the first ones.

        Raises:
            InvalidRequestError: there are not so many.
        """
        return first_records(records, self.n_facts)

    def cells(self, n_layers: int) -> list[tuple[int, int]]:
        """Each (top, count) with room for so many layers, by top: those may share values.

        Args:
            n_layers: of the model.

        Raises:
            InvalidRequestError: no top layer has room below it for any of the counts.
        """
        # Nothing that follows sees what is written to the last layer.
        step = max(1, round(n_layers / self.N_TOPS))
        tops = range(0, max(1, n_layers - 1), step) if self.tops is None else self.tops
        cells = [
            (top, count)
            for top in sorted(set(tops))
            for count in sorted(set(self.counts))
            if count <= top + 1
        ]
        if not cells:
            raise InvalidRequestError(
                f"There are no {min(self.counts)} layers up to layer {max(tops)}. Choose higher "
                "top layers or smaller counts."
            )
        return cells


class ScalingConfig(Config):
    """How many facts to write, with which methods.

    Attributes:
        methods: with their settings, such as `memit:second_moment_weight=5000`.
        numbers: of facts.
        mode: `sequence`: one edit after the other in one model, measured on the way; `together`:
            one edit for each number.
        turn: in a sequence, how many facts an edit writes. Numbers above it are rounded to its
            multiples. Methods that write one fact at a time take turns of one.
        measure: what to measure beside likelihoods.
    """

    methods: tuple[StudiedMethod, ...] = (StudiedMethod.parse("memit"),)
    numbers: CountList = Field(default=(1, 3, 10, 32, 100, 316, 1000), min_length=1)
    mode: Literal["sequence", "together"] = "sequence"
    turn: PositiveInt = 100
    measure: MeasureConfig = MeasureConfig(n_generated=20, drift_tokens=2000)

    @field_validator("methods", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return methods_listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> "ScalingConfig":
        if not self.methods:
            raise InvalidRequestError("There is no method to study. Name at least one.")
        label, times = Counter(one.label for one in self.methods).most_common(1)[0]
        if times > 1:
            raise InvalidRequestError(f"Method '{label}' is named twice. Give each once.")
        return self

    def choices(self) -> list[MethodChoice]:
        """The methods with their settings.

        Raises:
            InvalidRequestError: there is no such method or setting, or a method that writes one
                fact at a time is to write all together.
            StorageError: a trained editor cannot be read.
        """
        found = [one.method.chosen() for one in self.methods]
        if self.mode == "together":
            for choice in found:
                choice.method.check_many()
        return found

    def rounded(self) -> tuple[int, ...]:
        """The numbers of facts, ascending: in a sequence those above a turn as multiples of it."""
        if self.mode == "together":
            return tuple(sorted(set(self.numbers)))
        whole = {n if n <= self.turn else self.turn * round(n / self.turn) for n in self.numbers}
        return tuple(sorted(whole))

    def chosen(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """The records that are written, the first ones.

        Raises:
            InvalidRequestError: there are not so many.
        """
        return first_records(records, self.rounded()[-1])


StudyConfig = RelationsConfig | MixtureConfig | LayersConfig | ScalingConfig


# -- records -----------------------------------------------------------------------------------


def records_by_relation(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each relation, in their order.

    Raises:
        InvalidRequestError: none says its relation.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.relation_id:
            found.setdefault(record.relation_id, []).append(record)
    if not found:
        raise InvalidRequestError("The records do not say their relation. Give others.")
    return found


def check_relation(
    relation: str, by_relation: Mapping[str, Sequence[Record]], n_needed: int, advice: str
) -> None:
    """Refuse a relation that is not there, or has too few records.

    Raises:
        InvalidRequestError: it is so.
    """
    if relation not in by_relation:
        known = sorted(by_relation, key=relation_order)
        raise InvalidRequestError(
            f"There are no records of relation '{relation}'.{nearest(relation, known)} There are "
            f"{', '.join(known)}."
        )
    n = len(by_relation[relation])
    if n < n_needed:
        raise InvalidRequestError(
            f"Relation '{relation}' has {counted(n, 'record')}, and {n_needed} are needed. {advice}"
        )


def first_records(records: Sequence[Record], n: int) -> tuple[Record, ...]:
    """The first so many records.

    Raises:
        InvalidRequestError: there are fewer.
    """
    if len(records) < n:
        raise InvalidRequestError(
            f"There are {counted(len(records), 'record')}, and {n:,} are needed. Choose smaller "
            "numbers of facts, or give more records."
        )
    return tuple(records[:n])


def relation_order(relation: str) -> tuple[int, str]:
    """P17 before P103."""
    return len(relation), relation


def _words(value: Any) -> Any:
    """The words of a text with commas between; anything else as it is."""
    return [one.strip() for one in value.split(",")] if isinstance(value, str) else value
