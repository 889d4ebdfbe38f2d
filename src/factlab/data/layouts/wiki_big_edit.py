"""WikiBigEdit (Thede et al. 2025): questions about what changed in Wikidata, month by month.

    {"tag": "new", "subject": "Oslo", "update": "Which river flows through Oslo?",
     "ans": "Akerselva", "rephrase": "...", "personas": "...",
     "mhop": "Where does the river through Oslo begin?", "mhop_ans": "Maridalsvannet",
     "loc": "...", "loc_ans": "..."}

Or under the names of EasyEdit's reader: `prompt`, `target_new`, `portability_personas`,
`portability_hop`, `portability_hop_ans`, `locality`, `locality_ans`. What is null, or NaN, is not
there. `personas` is the question once more, in somebody's manner of speaking: a paraphrase. Other
fields, such as further personas, are not used. Scored as zsRE is.
"""

from collections.abc import Mapping

from factlab.data.json_fields import Fields
from factlab.data.layouts.parts import Answered, fact_of, questions_among, subject_of, target_of
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.data.ripple_query import RippleQuery


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value has this layout."""
    theirs = {"portability_personas", "portability_hop", "locality_ans"}
    return value.keys() >= {"update", "ans"} or (
        "target_new" in value and not theirs.isdisjoint(value)
    )


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None where there is nothing to write; see `knowedit.from_json`."""
    record = Fields(value, f"{where}, record {index}")
    prompt = record.text(record.first_of("update", "prompt"))
    subject = subject_of(record, "subject")
    new = target_of(record, record.first_of("ans", "target_new"), left_out)
    if new is None:
        return None
    fact = fact_of(record, prompt, subject, (new, None), left_out)
    if fact is None:
        return None
    wordings = (record.text_or_empty(name) for name in _present(record, "rephrase", "personas"))
    paraphrases = tuple(dict.fromkeys(filter(None, wordings)))
    beside = _asked(record, "loc", "locality", left_out)
    hop = _asked(record, "mhop", "portability_hop", left_out)
    return Record(
        case_id=index,
        benchmark="zsre",
        fact=fact,
        paraphrase_prompts=paraphrases,
        neighborhood_prompts=[asked.prompt for asked in beside],
        neighborhood_answers=[asked.answers[0] for asked in beside],
        question_prompts=questions_among((fact.prompt, *paraphrases)),
        ripple=[
            RippleQuery(axis="composition", prompt=asked.prompt, answers=asked.answers)
            for asked in hop
        ],
    )


def _present(record: Fields, *names: str) -> list[str]:
    return [record.first_of(name, f"portability_{name}") for name in names]


def _asked(record: Fields, name: str, other: str, left_out: LeftOut) -> list[Answered]:
    """The question of a field and the answer beside it; none if there is no question."""
    field = record.first_of(name, other)
    prompt = record.text_or_empty(field)
    answer = record.text_or_empty(f"{field}_ans")
    if prompt and answer:
        return [Answered(prompt, (answer,))]
    if prompt or answer:
        left_out.add("question without a text or an answer", record.where,
                     "questions without a text or an answer")  # fmt: skip
    return []
