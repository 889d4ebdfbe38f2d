"""MQuAKE (Zhong et al. 2023, arXiv 2305.14795): questions whose chain of facts runs through edits.

    {"case_id": 5, "requested_rewrite": [{"prompt": "{} flows through", "relation_id": "P131",
         "target_new": {"str": "Lyon", "id": "Q456"}, "target_true": {"str": "Oslo", "id": "Q585"},
         "subject": "Akerselva", "question": "Which city does Akerselva flow through?"}],
     "questions": [three wordings], "answer": "Norway", "answer_alias": [...],
     "new_answer": "France", "new_answer_alias": [...],
     "single_hops": [...], "new_single_hops": [{"question": "...", "cloze": "Lyon lies in",
         "answer": "France", "answer_alias": [...]}, ...]}

A record is a case of one edit; its questions are ripple queries of an axis of composition, each
asked only of a model that knows the other facts of the new chain. The questions of a case of
several edits hold only when all are made, so that such cases are left out and counted.
`single_hops` and `orig` are not read. The published score takes one right wording in three; here
each counts.
"""

from collections.abc import Mapping
from dataclasses import replace

from factlab.data import counterfact
from factlab.data.json_fields import Fields
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.data.ripple_query import Condition, RippleQuery
from factlab.errors import StorageError


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value has this layout; a record of CounterFact has one edit, not a list of them."""
    return isinstance(value.get("requested_rewrite"), list)


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None for a case of several edits; see `knowedit.from_json`."""
    del index
    case_id = Fields(value, where).number("case_id")
    case = Fields(value, f"{where}, record {case_id}")
    rewrites = case.inner_list("requested_rewrite")
    if not rewrites:
        raise StorageError(f"{case.where}: requested_rewrite is empty. Give at least one edit.")
    if len(rewrites) > 1:
        left_out.add("case of several edits, which hold only together", case.where,
                     "cases of several edits, which hold only together")  # fmt: skip
        return None
    record = counterfact.from_json(
        {"case_id": case_id, "requested_rewrite": rewrites[0].value}, where
    )
    question = rewrites[0].text_or_empty("question")
    aliases, conditions = _chain(case, record, question)
    ripple: tuple[RippleQuery, ...] = ()
    if aliases is None:
        left_out.add("chain of facts without the edited one", case.where,
                     "chains of facts without the edited one")  # fmt: skip
    else:
        ripple = _queries(case, record.fact.subject, conditions)
    return replace(
        record,
        question_prompts=(question,) if question else (),
        new_aliases=aliases or (),
        ripple=ripple,
    )


def _chain(
    case: Fields, record: Record, question: str
) -> tuple[tuple[str, ...] | None, tuple[Condition, ...]]:
    """Other names of the new object, by the new chain's edited fact; and the chain's other facts.

    None for the names where the edited fact is not in the chain.
    """
    aliases: tuple[str, ...] | None = None
    conditions: list[Condition] = []
    for hop in case.inner_list("new_single_hops"):
        cloze, answer = hop.text("cloze"), hop.text("answer")
        others = hop.answers("answer_alias") if hop.has("answer_alias") else ()
        asks_it = cloze.strip() == record.fact.prompt.strip() or (
            question and hop.text_or_empty("question") == question
        )
        if asks_it:
            aliases = tuple(name for name in others if name != record.fact.target_new)
        else:
            conditions.append(Condition(cloze, tuple(dict.fromkeys((answer, *others)))))
    return aliases, tuple(conditions)


def _queries(
    case: Fields, subject: str, conditions: tuple[Condition, ...]
) -> tuple[RippleQuery, ...]:
    questions = case.texts("questions")
    if not questions:
        raise StorageError(f"{case.where}: questions is missing or empty. Give at least one.")
    old, new = (
        (case.text(name), *(case.answers(f"{name}_alias") if case.has(f"{name}_alias") else ()))
        for name in ("answer", "new_answer")
    )
    return tuple(
        RippleQuery(
            # A question that names the edit's subject begins there; another one comes upon it.
            axis="composition" if subject in question else "composition_from",
            prompt=question,
            answers=tuple(dict.fromkeys(new)),
            old_answers=tuple(dict.fromkeys(old)),
            conditions=conditions,
        )
        for question in questions
    )
