"""RippleEdits (Cohen et al. 2023, arXiv 2307.12976): an edit and what it should change and leave.

    {"example_type": "popular",
     "edit": {"prompt": "The name of the mayor of Oslo is Ada Lie.", "subject_id": "Q585",
              "relation": "MAYOR", "target_id": "Q1",
              "original_fact": {"prompt": "The name of the mayor of Oslo is Bo Dahl.", ...}},
     "Relation_Specificity": [{"test_queries": [query, ...], "test_condition": "OR",
                               "condition_queries": [query, ...]}, ...],
     "Logical_Generalization": [...], "Subject_Aliasing": [...], "Compositionality_I": [...],
     "Compositionality_II": [...], "Forgetfulness": [...]}

    query: {"prompt": "The name of the country of Oslo is", "query_type": "regular",
            "answers": [{"value": "Norway", "aliases": ["Kingdom of Norway"]}],
            "subject_id": "Q585", "target_ids": ["Q20"], ...}

The file names no subject, only its id, and the new object stands at the end of the sentence: both
are told by how the sentences are built. `previous_fact` is read as `original_fact`. Each test query
becomes a ripple query with the conditions of its test, all of which must hold. In the published
evaluation a query with several answers is right if all are said, and a test of several queries if
any (`OR`) or all (`AND`) are; here each query counts, and any of its answers is right. Answers of
one character that is no digit are dropped, as there. Edits with an original fact are scored as
CounterFact is, and others as zsRE.
"""

import re
from collections.abc import Iterator, Mapping

from factlab.data.json_fields import Fields
from factlab.data.layouts.parts import fact_of
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.data.ripple_query import Axis, Condition, RippleQuery
from factlab.facts import words_of

_AXES: Mapping[str, Axis] = {
    "Relation_Specificity": "specificity", "Logical_Generalization": "logic",
    "Subject_Aliasing": "alias", "Compositionality_I": "composition",
    "Compositionality_II": "composition_from", "Forgetfulness": "forgetfulness",
}  # fmt: skip
# What comes before the object: the last of these words.
_SENTENCE = re.compile(r"(.*\s(?:is followed by|follows|is|are))\s+(\S.*)", re.DOTALL)
# Where the subject stands, if it is not behind "of" at the end.
_SUBJECTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(.+) (?:follows|is followed by)",
        r".*? which (.+) (?:plays in|is (?:associated with|a member of|part of|the capital of)) is",
        r".*? (?:held by|currency in) (.+) is",
        r"The (?:name of the award|number of children) (.+) (?:won|has) is",
    )
)
_LONGEST_SENTENCE = 1000  # characters; the published ones have some dozens
_BEGINNING = re.compile(r"The (?:names? of the )?(.*?) (?:is|are)", re.DOTALL)


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value has this layout."""
    return "edit" in value and ("example_type" in value or not _AXES.keys().isdisjoint(value))


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None where there is nothing to write; see `knowedit.from_json`."""
    record = Fields(value, f"{where}, record {index}")
    edit = record.inner("edit")
    sentence, relation = edit.text("prompt"), edit.text("relation")
    target_id = edit.text_or_empty("target_id")
    names = _names(record)
    aliases = names.get(target_id, ())
    found = _object_of(sentence, aliases[0] if aliases else "")
    subject = found and _subject_of(found[0], relation)
    if found is None or subject is None:
        left_out.add("record whose sentence does not tell subject and object", record.where,
                     "records whose sentence does not tell subject and object")  # fmt: skip
        return None
    stem, new = found
    before = next((name for name in ("original_fact", "previous_fact") if edit.has(name)), None)
    true, true_id = _before(edit.inner(before), stem) if before else (None, "")
    if true is not None and words_of(true) == words_of(new):
        left_out.add("record that changes nothing", record.where, "records that change nothing")
        return None
    fact = fact_of(record, stem, subject, (new, true), left_out)
    if fact is None:
        return None
    return Record(
        case_id=index,
        benchmark="counterfact" if before else "zsre",
        relation_id=relation,
        fact=fact,
        new_id=target_id,
        true_id=true_id,
        new_aliases=[name for name in aliases if name != fact.target_new],
        ripple=tuple(_queries(record, fact.target_true, left_out)),
    )


def _before(fact: Fields, stem: str) -> tuple[str | None, str]:
    """What was true, if the sentence says it, and its id."""
    said = fact.text("prompt").strip().removesuffix(".")
    true = said.removeprefix(stem).strip() if said.startswith(stem) else ""
    return true or None, fact.text_or_empty("target_id")


def _object_of(sentence: str, name: str) -> tuple[str, str] | None:
    """The sentence up to its object, and the object."""
    said = sentence.strip().removesuffix(".")
    if len(said) > _LONGEST_SENTENCE:
        return None
    if name and said.endswith(f" {name}"):
        return said[: -len(name)].rstrip(), name
    found = _SENTENCE.fullmatch(said)
    return None if found is None else (found[1], found[2])


def _subject_of(stem: str, relation: str) -> str | None:
    for pattern in _SUBJECTS:
        if found := pattern.fullmatch(stem):
            return found[1]
    found = _BEGINNING.fullmatch(stem)
    if found is None:
        return None
    # The relation may hold "of" itself: the place of birth of Ada.
    label = f"{relation.lower().replace('_', ' ')} of "
    rest = found[1]
    if rest.lower().startswith(label):
        return rest[len(label) :] or None
    return rest.partition(" of ")[2] or None


def _names(record: Fields) -> dict[str, tuple[str, ...]]:
    """Name and aliases of whatever is the answer of some query, by id."""
    names: dict[str, tuple[str, ...]] = {}
    for _, test in _tests(record):
        for query in (*test.inner_list("test_queries"), *_conditions(test)):
            hops = query.text_or_empty("query_type") == "two_hop"
            ids = query.value.get("second_hop_target_ids" if hops else "target_ids")
            answers = query.inner_list_or_empty("answers")
            if isinstance(ids, list) and len(ids) == len(answers):
                for one, answer in zip(ids, answers, strict=True):
                    if isinstance(one, str) and (said := _said(answer)):
                        names.setdefault(one, said)
    return names


def _tests(record: Fields) -> Iterator[tuple[Axis, Fields]]:
    for name, axis in _AXES.items():
        for test in record.inner_list_or_empty(name):
            yield axis, test


def _conditions(test: Fields) -> list[Fields]:
    return test.inner_list_or_empty("condition_queries")


def _queries(record: Fields, true: str | None, left_out: LeftOut) -> Iterator[RippleQuery]:
    for axis, test in _tests(record):
        asked = [(query.text("prompt"), _answers(query)) for query in _conditions(test)]
        can_hold = all(answers for _, answers in asked)
        for query in test.inner_list("test_queries"):
            prompt, answers = query.text("prompt"), _answers(query)
            if not answers or not can_hold:
                left_out.add("query without an answer, or with such a condition", record.where,
                             "queries without an answer, or with such a condition")  # fmt: skip
                continue
            yield RippleQuery(
                axis=axis,
                prompt=prompt,
                answers=answers,
                old_answers=(true,) if axis == "alias" and true is not None else (),
                conditions=[Condition(*condition) for condition in asked],
            )


def _answers(query: Fields) -> tuple[str, ...]:
    """All that is right."""
    said = (text for answer in query.inner_list_or_empty("answers") for text in _said(answer))
    return tuple(dict.fromkeys(said))


def _said(answer: Fields) -> tuple[str, ...]:
    """A name and its aliases."""
    aliases = answer.answers("aliases") if answer.has("aliases") else ()
    return tuple(
        text for text in (*answer.answers("value"), *aliases) if len(text) > 1 or text.isdigit()
    )
