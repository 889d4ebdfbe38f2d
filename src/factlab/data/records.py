"""`Record`: one case of a benchmark. What is asked of a model before and after an edit."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from factlab.data.ripple_query import RippleQuery
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.writing import check_texts

Benchmark = Literal["counterfact", "zsre"]
UNNUMBERED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case: a fact to write, and prompts that tell what the edit did.

    Of CounterFact (ROME paper, section 3.3 and appendix D) all prompts are asked for the new and
    the true target. Of zsRE (section 3.2 and appendix C) the rewriting prompt and the paraphrase
    are asked for the new target, and the unrelated question for its own answer.

    A fact of one's own needs no more than the prompts that one cares about; it is scored as those
    of CounterFact are:

        Record(
            fact=Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
            paraphrase_prompts=["To see the Eiffel Tower, travel to"],
            neighborhood_prompts=["The Louvre is located in the city of"],
        )

    Attributes:
        fact: the rewriting prompt with subject, `target_new`, and for CounterFact `target_true`.
        case_id: its number in the data set; `UNNUMBERED` for its place in the list it is given in.
        benchmark: which of the two it belongs to.
        relation_id: such as P36; empty where the data set does not say.
        new_id: identifier of the new target, such as Q90; it may be empty.
        true_id: of the true target.
        paraphrase_prompts: the same in other words.
        neighborhood_prompts: about other subjects, whose answer should stay what it is.
        neighborhood_answers: what is right there; empty where that is `fact.target_true`.
        attribute_prompts: about subjects for which the new target is true.
        generation_prompts: beginnings of texts about the subject.
        question_prompts: questions whose answer the fact is, with a question mark.
        new_aliases: other names of the new target, as good as `fact.target_new`.
        ripple: questions beside the fact, whose answers the edit changes or must keep.

    Raises:
        InvalidRequestError: `fact` is no `Fact`, or prompts are not a list of texts.
    """

    case_id: int = UNNUMBERED
    benchmark: Benchmark = "counterfact"
    relation_id: str = ""
    fact: Fact
    new_id: str = ""
    true_id: str = ""
    paraphrase_prompts: Sequence[str] = ()
    neighborhood_prompts: Sequence[str] = ()
    neighborhood_answers: Sequence[str] = ()
    attribute_prompts: Sequence[str] = ()
    generation_prompts: Sequence[str] = ()
    question_prompts: Sequence[str] = ()
    new_aliases: Sequence[str] = ()
    ripple: Sequence[RippleQuery] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.fact, Fact):
            raise InvalidRequestError(
                f"The fact of a record is a {type(self.fact).__name__}. Give a Fact."
            )
        for name in _LISTS:
            prompts: object = getattr(self, name)
            if not isinstance(prompts, str) and isinstance(prompts, Iterable):
                prompts = tuple(prompts)  # lists are taken too
                object.__setattr__(self, name, prompts)
            check_texts(prompts, name)
        object.__setattr__(self, "ripple", tuple(self.ripple))

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; of what later versions added, what there is of it.

        So the hash of a record stays what it was when a run was begun.
        """
        described = asdict(self)
        for name in _ADDED:
            if not described[name]:
                del described[name]
        return described


_ADDED = ("question_prompts", "new_aliases", "ripple")
_LISTS = (
    "paraphrase_prompts", "neighborhood_prompts", "neighborhood_answers", "attribute_prompts",
    "generation_prompts", "question_prompts", "new_aliases",
)  # fmt: skip


def as_records(given: Sequence[Record | Fact]) -> list[Record]:
    """Facts as records without other prompts, and records that lack a number with their place.

    Raises:
        InvalidRequestError: something is neither.
    """
    records: list[Record] = []
    for place, one in enumerate(given):
        if isinstance(one, Fact):
            records.append(Record(case_id=place, fact=one))
        elif isinstance(one, Record):
            unnumbered = one.case_id == UNNUMBERED
            records.append(replace(one, case_id=place) if unnumbered else one)
        else:
            raise InvalidRequestError(
                f"Number {place} of the records is a {type(one).__name__}. Give Records or Facts."
            )
    return records


@dataclass(frozen=True, slots=True)
class Reference:
    """A text about a subject of which a fact is true, to compare generated texts with.

    Attributes:
        subject: what it is about.
        text: the text.
    """

    subject: str
    text: str


# References by relation and object: (relation_id, the object's id, or its name if it has none).
References = dict[tuple[str, str], tuple[Reference, ...]]
