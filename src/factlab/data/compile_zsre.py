"""Compiling records in the way of zsRE: questions, with an unrelated question for each."""

from collections.abc import Iterable, Mapping

from factlab.data.compile import own_random, shuffled
from factlab.data.fact_source import FactSource
from factlab.data.phrasing import Phrasing
from factlab.data.records import Record
from factlab.data.relations import Triple
from factlab.errors import InvalidRequestError
from factlab.facts import SLOT, Fact

_FEWEST_QUESTIONS = 2
_UNRELATED = "nq question: "


def compile_zsre(
    triples: Iterable[Triple],
    phrasing: Mapping[str, Phrasing],
    seed: int,
    limit: int | None = None,
) -> list[Record]:
    """Make a record of every fact whose relation has two questions.

    The target is the true object, as in zsRE. The unrelated question is about another subject in
    another relation, written as those of Natural Questions are: in small letters.

    Args:
        triples: true facts; see `FactSource.of` for those that are left out.
        phrasing: words of each relation.
        seed: of all draws.
        limit: make no more than this many.

    Raises:
        InvalidRequestError: no fact will do, `limit` is below 1, or there are questions for one
            relation only.
    """
    if limit is not None and limit < 1:
        raise InvalidRequestError(f"limit={limit} must be at least 1.")
    source = FactSource.of(triples, phrasing)
    by_relation: dict[str, list[Triple]] = {}
    for triple in source.triples:
        if len(phrasing[triple.relation_id].question) >= _FEWEST_QUESTIONS:
            by_relation.setdefault(triple.relation_id, []).append(triple)
    if len(by_relation) < 2:
        raise InvalidRequestError(
            f"Relations with {_FEWEST_QUESTIONS} questions and facts that will do: "
            f"{len(by_relation)}. An unrelated question needs a second one. Add questions to the "
            "templates."
        )
    relations = list(by_relation)
    records: list[Record] = []
    askable = [triple for facts in by_relation.values() for triple in facts]
    for case_id, triple in enumerate(shuffled(askable, seed)[:limit]):
        draw = own_random(seed, "zsre", triple)
        asked, again = draw.sample(phrasing[triple.relation_id].question, 2)
        unrelated = triple
        while unrelated.relation_id == triple.relation_id or unrelated.subject == triple.subject:
            unrelated = draw.choice(by_relation[draw.choice(relations)])
        other = draw.choice(phrasing[unrelated.relation_id].question)
        question = other.replace(SLOT, unrelated.subject).lower().rstrip("? ")
        records.append(
            Record(
                case_id=case_id,
                benchmark="zsre",
                relation_id=triple.relation_id,
                fact=Fact(asked, triple.subject, triple.object),
                paraphrase_prompts=(again.replace(SLOT, triple.subject),),
                neighborhood_prompts=(f"{_UNRELATED}{question}?",),
                neighborhood_answers=(unrelated.object,),
            )
        )
    return records
