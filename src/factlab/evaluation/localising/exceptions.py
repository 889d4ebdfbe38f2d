"""Facts that are not decided at the last token of their subject, and what marks them.

The ROME paper (section 2.2) finds an early site at the subject's last token, in the mean over
facts. Here every fact counts by itself: the token whose restored MLPs bring back the largest share
of what the noise took *decides* it. Where that is another token than the subject's last, the fact
is an exception.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Literal, NamedTuple

from factlab.data.relation_names import relation_label
from factlab.data.ripple.world import RippleWorld
from factlab.estimate import Estimate
from factlab.evaluation.localising.rows import FactRow
from factlab.evaluation.scoring.association import Contrast, share
from factlab.facts import Fact
from factlab.results import Tabular, known

Place = Literal["earlier", "last", "behind"]
CLEAR_GAP = 0.1  # of what the noise took


class TracedFact(NamedTuple):
    """A fact, and which of its tokens decides it.

    Attributes:
        case_id: of its record.
        prompt: of the fact.
        subject: of the fact.
        relation_id: such as P36; empty where it is not known.
        n_subject_tokens: how many the subject has.
        peak_token: position behind the subject's first token of the largest share; None if nothing
            comes back anywhere.
        peak_share: the largest share that comes back, over tokens from the subject on and layers.
        last_share: the largest at the subject's last token.
    """

    case_id: int
    prompt: str
    subject: str
    relation_id: str
    n_subject_tokens: int
    peak_token: int | None
    peak_share: float
    last_share: float

    @property
    def place(self) -> Place | None:
        """Where the deciding token is, seen from the subject's last one; None if there is none."""
        if self.peak_token is None:
            return None
        beside = self.peak_token - (self.n_subject_tokens - 1)
        return "last" if beside == 0 else "earlier" if beside < 0 else "behind"

    @property
    def gap(self) -> float:
        """How much more comes back there than at the subject's last token, as a share."""
        return self.peak_share - self.last_share

    def row(self) -> dict[str, Any]:
        """As a line of a table."""
        return {
            **self._asdict(), "last_share": known(self.last_share), "place": self.place,
            "gap": known(self.gap),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class Exceptions(Tabular):
    """Facts by the token that decides them.

    Attributes:
        facts: those of which something comes back.
        n_nothing: others, of which nothing does.
    """

    facts: tuple[TracedFact, ...]
    n_nothing: int

    @classmethod
    def of(cls, traced: Iterable[TracedFact]) -> "Exceptions":
        """Sort facts that were traced.

        Examples:
            >>> from factlab.evaluation.localising.exceptions import Exceptions, TracedFact
            >>> traced = TracedFact(0, "The Louvre is in", "The Louvre", "P276", 3, 1, 0.6, 0.2)
            >>> [fact.place for fact in Exceptions.of([traced]).exceptions]
            ['earlier']
        """
        every = [*traced]
        facts = tuple(fact for fact in every if fact.peak_token is not None)
        return cls(facts, len(every) - len(facts))

    @classmethod
    def of_study(cls, rows: Sequence[FactRow], window: int) -> "Exceptions":
        """Sort the facts of a study of localisation.

        Args:
            rows: of its facts.
            window: the main one, which their `peak_token` is of.
        """
        has_relations = all(row.relation_id is not None for row in rows)
        world = None if has_relations else RippleWorld.load()
        return cls.of(_traced(row, window, world) for row in rows)

    @property
    def exceptions(self) -> list[TracedFact]:
        """Facts that another token than the subject's last decides, the clearest first."""
        those = [fact for fact in self.facts if fact.place != "last"]
        return sorted(those, key=lambda fact: (-fact.gap, fact.case_id))

    @property
    def share(self) -> Estimate:
        """Of the facts, how many are exceptions; Wilson's interval."""
        return share(len(self.exceptions), len(self.facts))

    def count(self, place: Place) -> int:
        """Facts whose deciding token is there."""
        return sum(fact.place == place for fact in self.facts)

    def marks(self) -> list[Contrast]:
        """How many are exceptions, of facts with a mark and of those without."""
        if not self.facts:
            return []
        middle = median_low([fact.n_subject_tokens for fact in self.facts])
        marks = {
            f"subject of more than {middle} tokens": [
                fact.n_subject_tokens > middle for fact in self.facts
            ],
            "subject begins the prompt": [
                fact.prompt.startswith(fact.subject) for fact in self.facts
            ],
            "subject of more tokens than words": [
                fact.n_subject_tokens > len(fact.subject.split()) for fact in self.facts
            ],
        }
        return [self._contrast(mark, has_it) for mark, has_it in marks.items()]

    def relations(self) -> list[Contrast]:
        """The same of every relation against all others, the one with most facts first."""
        found = {
            relation_id: sum(fact.relation_id == relation_id for fact in self.facts)
            for relation_id in sorted({fact.relation_id for fact in self.facts} - {""})
        }
        return [
            self._contrast(
                relation_label(relation_id),
                [fact.relation_id == relation_id for fact in self.facts],
            )
            for relation_id in sorted(found, key=lambda one: -found[one])
        ]

    def _contrast(self, mark: str, has_it: Sequence[bool]) -> Contrast:
        is_one = [fact.place != "last" for fact in self.facts]
        pairs = list(zip(has_it, is_one, strict=True))
        return Contrast(
            mark,
            sum(has_it), sum(one for has, one in pairs if has),
            len(pairs) - sum(has_it), sum(one for has, one in pairs if not has),
        )  # fmt: skip

    def __repr__(self) -> str:
        n, of = len(self.exceptions), len(self.facts)
        return f"Exceptions({n} of {of} facts are not decided at the subject's last token)"

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per exception.

        Its keys: those of `TracedFact`, place (`earlier` or `behind`) and gap.
        """
        return [fact.row() for fact in self.exceptions]

    def to_json(self) -> dict[str, Any]:
        """Counts, marks and the exceptions, ready for JSON."""
        return {
            "n_facts": len(self.facts),
            "n_nothing": self.n_nothing,
            "n_earlier": self.count("earlier"),
            "n_behind": self.count("behind"),
            "marks": [_contrast_json(one) for one in self.marks()],
            "relations": [_contrast_json(one) for one in self.relations()],
            "facts": self.rows(),
        }


def _traced(row: FactRow, window: int, world: RippleWorld | None) -> TracedFact:
    relation_id = row.relation_id or ""
    if row.relation_id is None and world is not None:
        fact = Fact.from_prompt(row.prompt, row.subject, occurrence=1)
        relation_id = world.relation_of(fact)
    effects = row.effects[window]
    return TracedFact(
        row.case_id, row.prompt, row.subject, relation_id, row.n_subject_tokens, row.peak_token,
        largest(effects.by_layer), largest(effects.last_subject),
    )  # fmt: skip


def largest(shares: Iterable[float | None]) -> float:
    """The largest of some shares, 0 if there is none."""
    return max((one for one in shares if one is not None), default=0.0)


def _contrast_json(one: Contrast) -> dict[str, Any]:
    low, high = one.odds_ratio.interval
    return {
        "mark": one.mark, "n_with": one.n_with, "hits_with": one.hits_with,
        "n_without": one.n_without, "hits_without": one.hits_without,
        "odds_ratio": known(one.odds_ratio.mean), "odds_ratio_low": known(low),
        "odds_ratio_high": known(high), "p": known(one.p),
    }  # fmt: skip
