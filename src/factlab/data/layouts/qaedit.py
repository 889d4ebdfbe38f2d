"""QAEdit of WILD (Yang et al. 2025, arXiv 2502.11177): questions of NQ, TriviaQA and SimpleQA.

    {"id": 94, "source": "NQ", "prompt": "which river flows through oslo", "target": "Akerselva",
     "subject": "oslo", "rephrase": "Which river runs through Oslo?",
     "locality": [{"loc": "who wrote peer gynt", "loc_ans": "Henrik Ibsen"}, ...]}

The prompt is the question, and asked as it stands; among `question_prompts` it has a question mark.
`id` counts within its source, so that records are numbered by their place instead. Scored as zsRE.
"""

from collections.abc import Mapping

from factlab.data.json_fields import Fields
from factlab.data.layouts.parts import answered, as_question, fact_of, subject_of, target_of
from factlab.data.left_out import LeftOut
from factlab.data.records import Record


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value has this layout."""
    return value.keys() >= {"prompt", "target", "subject"}


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None where there is nothing to write; see `knowedit.from_json`."""
    record = Fields(value, f"{where}, record {index}")
    prompt, subject = record.text("prompt"), subject_of(record, "subject")
    new = target_of(record, "target", left_out)
    if new is None:
        return None
    fact = fact_of(record, prompt, subject, (new, None), left_out)
    if fact is None:
        return None
    paraphrases = record.answers("rephrase") if record.has("rephrase") else ()
    beside = [
        found
        for item in record.inner_list_or_empty("locality")
        if (found := answered(item, left_out, "loc", "loc_ans"))
    ]
    questions = map(as_question, (fact.prompt, *paraphrases))
    return Record(
        case_id=index,
        benchmark="zsre",
        fact=fact,
        paraphrase_prompts=paraphrases,
        neighborhood_prompts=[asked.prompt for asked in beside],
        neighborhood_answers=[asked.answers[0] for asked in beside],
        question_prompts=tuple(dict.fromkeys(questions)),
    )
