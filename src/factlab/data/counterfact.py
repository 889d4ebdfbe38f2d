"""The published layout of CounterFact (ROME paper, section 3.3), read and written.

    {"case_id": 0,
     "requested_rewrite": {"prompt": "The mother tongue of {} is", "relation_id": "P103",
                           "target_new": {"str": "English", "id": "Q1860"},
                           "target_true": {"str": "French", "id": "Q150"},
                           "subject": "Danielle Darrieux"},
     "paraphrase_prompts": [...], "neighborhood_prompts": [...],
     "attribute_prompts": [...], "generation_prompts": [...]}

Older files say `entity` for `subject`. A list that is missing is empty. Other fields are ignored.

What the published layout has no place for is written beside it, where a record has it, and read
back: `neighborhood_answers`, `question_prompts`, `new_aliases` and `ripple` (see `ripple_json`);
`"benchmark": "zsre"` for a record that is scored so; null for a true target that is not known; and
an empty subject for a fact without one.
"""

from collections.abc import Sequence
from typing import get_args

from factlab.data import ripple_json
from factlab.data.json_fields import Fields
from factlab.data.records import Benchmark, Record
from factlab.errors import InvalidRequestError, StorageError, counted
from factlab.facts import Fact, has_slot
from factlab.storage import JsonValue


def from_json(value: object, where: str, index: int = 0) -> Record:
    """One record of the published layout.

    Args:
        value: what was read.
        where: where it stands, such as "Line 3 of 'x.json'".
        index: its place in the file; not needed, since a record says its `case_id`.

    Raises:
        StorageError: a field is missing, empty or of the wrong type, the prompt does not hold
            exactly one `{}`, both targets are the same, or there are not as many answers as
            neighbourhood prompts. Names record and field.
    """
    del index
    case_id = Fields(value, where).number("case_id")
    where = f"{where}, record {case_id}"
    record = Fields(value, where)
    rewrite = record.inner("requested_rewrite")
    new, true = rewrite.inner("target_new"), rewrite.inner("target_true")
    target_new = new.text("str")
    target_true = None if true.is_null("str") else true.text("str")
    if target_true is not None and target_new.strip() == target_true.strip():
        raise StorageError(
            f"{where}: requested_rewrite.target_new.str and target_true.str are both "
            f"'{target_new}'. The new target must differ from the true one."
        )
    template = rewrite.text("prompt")
    older = rewrite.has("entity") and not rewrite.has("subject")
    named = "entity" if older else "subject"
    # A whole prompt as the template, and an empty subject: a fact without one.
    has_subject = has_slot(template) or rewrite.value.get(named) != ""
    subject = rewrite.text(named) if has_subject else ""
    try:
        fact = Fact(template, subject, target_new, target_true)
    except InvalidRequestError as error:
        raise StorageError(f"{where}: requested_rewrite.prompt: {error}") from error
    prompts, answers = (record.texts(f"neighborhood_{name}") for name in ("prompts", "answers"))
    if answers and len(answers) != len(prompts):
        raise StorageError(
            f"{where}: neighborhood_answers are {len(answers)}, for "
            f"{counted(len(prompts), 'neighborhood prompt')}. Give one for each, or none."
        )
    return Record(
        case_id=case_id,
        benchmark=_benchmark(record),
        relation_id=rewrite.text_or_empty("relation_id"),
        fact=fact,
        new_id=new.text_or_empty("id"),
        true_id=true.text_or_empty("id"),
        paraphrase_prompts=record.texts("paraphrase_prompts"),
        neighborhood_prompts=prompts,
        neighborhood_answers=answers,
        attribute_prompts=record.texts("attribute_prompts"),
        generation_prompts=record.texts("generation_prompts"),
        question_prompts=record.texts("question_prompts"),
        new_aliases=record.texts("new_aliases"),
        ripple=[ripple_json.from_json(query) for query in record.inner_list_or_empty("ripple")],
    )


def _benchmark(record: Fields) -> Benchmark:
    """How the record is scored; the word is of us and not of the published layout."""
    if not record.has("benchmark"):
        return "counterfact"
    return "zsre" if record.one_of("benchmark", get_args(Benchmark)) == "zsre" else "counterfact"


def to_json(record: Record) -> dict[str, JsonValue]:
    """The published layout of a record; `from_json` gives the same record back."""
    fact = record.fact
    written: dict[str, JsonValue] = {
        "case_id": record.case_id,
        "requested_rewrite": {
            "prompt": fact.template,
            "relation_id": record.relation_id,
            "target_new": {"str": fact.target_new, "id": record.new_id},
            "target_true": {"str": fact.target_true, "id": record.true_id},
            "subject": fact.subject,
        },
        "paraphrase_prompts": list(record.paraphrase_prompts),
        "neighborhood_prompts": list(record.neighborhood_prompts),
        "attribute_prompts": list(record.attribute_prompts),
        "generation_prompts": list(record.generation_prompts),
    }
    if record.benchmark != "counterfact":
        written["benchmark"] = record.benchmark
    for name in ("neighborhood_answers", "question_prompts", "new_aliases"):
        texts: Sequence[str] = getattr(record, name)
        if texts:
            written[name] = list(texts)
    if record.ripple:
        written["ripple"] = [ripple_json.to_json(query) for query in record.ripple]
    return written
