"""KnowEdit (Zhang et al. 2024, arXiv 2401.01286): ZsRE, WikiData recent and counterfact, WikiBio.

    {"subject": "Oslo", "prompt": "The river through Oslo is", "target_new": "Loire",
     "ground_truth": "Akerselva", "rephrase_prompt": "...",
     "portability": {"Reasoning": [{"prompt": "...", "ground_truth": [["...", "an alias"]]}],
                     "Subject_Aliasing": [...], "Logical_Generalization": [...]},
     "locality": {"Relation_Specificity": [{"prompt": "...", "ground_truth": "..."}],
                  "Forgetfulness": [...]}}

WikiBio says `concept`, `text` and `labels` for subject, prompt and target_new. `ground_truth` is a
text, a list of texts, or a list of lists; each is as good as the others. Lists under the names
`portability_r`, `portability_s`, `portability_l`, `locality_rs` and `locality_f`, as EasyEdit's
reader hands them on, are read too. Scored as zsRE is: what is right beside the fact has answers of
its own.
"""

from collections.abc import Iterator, Mapping

from factlab.data.json_fields import Fields
from factlab.data.layouts.parts import answered, fact_of, questions_among, subject_of, target_of
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.data.ripple_query import Axis, RippleQuery

_AXES: Mapping[str, Axis] = {
    "Reasoning": "composition", "Subject_Aliasing": "alias", "Logical_Generalization": "logic",
    "portability_r": "composition", "portability_s": "alias", "portability_l": "logic",
}  # fmt: skip
_LOCAL = ("locality_rs", "locality_f")


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value has this layout."""
    beside = {"portability", "locality", "concept", *_LOCAL, *_AXES}
    return ("target_new" in value or "labels" in value) and not beside.isdisjoint(value)


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None where there is nothing to write.

    Args:
        value: what was read.
        where: where it stands, such as "Line 3 of 'x.json'".
        index: its place in the file, and its `case_id` unless it says another.
        left_out: is told what does not become part of a record.

    Raises:
        StorageError: a field is missing, empty or of the wrong type; names record and field.
    """
    first = Fields(value, where)
    case_id = first.number("case_id") if first.has("case_id") else index
    record = Fields(value, f"{where}, record {case_id}")
    prompt = record.text(record.first_of("prompt", "text"))
    subject = subject_of(record, record.first_of("subject", "concept"))
    new = target_of(record, record.first_of("target_new", "labels"), left_out)
    if new is None:
        return None
    true = next(iter(record.answers("ground_truth") if record.has("ground_truth") else ()), None)
    fact = fact_of(record, prompt, subject, (new, true), left_out)
    if fact is None:
        return None
    wording = record.first_of("rephrase_prompt", "rephrase")
    paraphrases = record.answers(wording) if record.has(wording) else ()
    local = [found for item in _locality(record) if (found := answered(item, left_out))]
    return Record(
        case_id=case_id,
        benchmark="zsre",
        fact=fact,
        paraphrase_prompts=paraphrases,
        neighborhood_prompts=[asked.prompt for asked in local],
        neighborhood_answers=[asked.answers[0] for asked in local],
        question_prompts=questions_among((fact.prompt, *paraphrases)),
        ripple=tuple(_queries(record, fact.target_true, left_out)),
    )


def _locality(record: Fields) -> Iterator[Fields]:
    if record.has("locality"):
        kinds = record.inner("locality")
        for name in kinds.names:
            yield from kinds.inner_list_or_empty(name)
    for name in _LOCAL:
        yield from record.inner_list_or_empty(name)


def _queries(record: Fields, true: str | None, left_out: LeftOut) -> Iterator[RippleQuery]:
    places = [record]
    if record.has("portability"):
        places.append(record.inner("portability"))
    for place in places:
        for name in place.names:
            axis = _AXES.get(name)
            if axis is None:
                if place is not record and place.has(name):
                    left_out.add(f"list of portability called '{name}'", record.where)
                continue
            for item in place.inner_list_or_empty(name):
                if found := answered(item, left_out):
                    old = (true,) if axis == "alias" and true is not None else ()
                    yield RippleQuery(
                        axis=axis, prompt=found.prompt, answers=found.answers, old_answers=old
                    )
