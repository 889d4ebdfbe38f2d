"""Flat records of one edit, as EasyEdit and WILD write CounterFact (`counterfact-edit.json`).

    {"case_id": 7, "prompt": "The river through Oslo is", "subject": "Oslo",
     "target_new": "Loire", "ground_truth": "Akerselva", "rephrase_prompt": "...",
     "locality_prompt": "The river through Nydalen is", "locality_ground_truth": "Akerselva"}

`locality_prompt` is about another subject of which the same is true, as in CounterFact; one with
another answer cannot be compared with the new target, and is left out. A record without
`ground_truth` is scored as zsRE is, and then every answer counts.
"""

from collections.abc import Mapping

from factlab.data.json_fields import Fields
from factlab.data.layouts.parts import fact_of, questions_among, subject_of, target_of
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.facts import words_of


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value has this layout."""
    return value.keys() >= {"prompt", "subject", "target_new"}


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None where there is nothing to write; see `knowedit.from_json`."""
    first = Fields(value, where)
    case_id = first.number("case_id") if first.has("case_id") else index
    record = Fields(value, f"{where}, record {case_id}")
    prompt, subject = record.text("prompt"), subject_of(record, "subject")
    new = target_of(record, "target_new", left_out)
    if new is None:
        return None
    true = next(iter(record.answers("ground_truth") if record.has("ground_truth") else ()), None)
    fact = fact_of(record, prompt, subject, (new, true), left_out)
    if fact is None:
        return None
    paraphrases = record.answers("rephrase_prompt") if record.has("rephrase_prompt") else ()
    beside, answers = _beside(record, true, left_out)
    return Record(
        case_id=case_id,
        benchmark="zsre" if true is None else "counterfact",
        fact=fact,
        paraphrase_prompts=paraphrases,
        neighborhood_prompts=beside,
        neighborhood_answers=answers,
        question_prompts=questions_among((fact.prompt, *paraphrases)),
    )


def _beside(
    record: Fields, true: str | None, left_out: LeftOut
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The unrelated prompt, and its answer where that is not the fact's true one."""
    if not record.has("locality_prompt"):
        return (), ()
    prompt = record.text("locality_prompt")
    answer = record.text_or_empty("locality_ground_truth")
    if true is None and answer:
        return (prompt,), (answer,)
    if true is None or (answer and words_of(answer) != words_of(true)):
        left_out.add("unrelated prompt that has not the fact's own answer", record.where,
                     "unrelated prompts that have not their fact's own answer")  # fmt: skip
        return (), ()
    return (prompt,), ()
