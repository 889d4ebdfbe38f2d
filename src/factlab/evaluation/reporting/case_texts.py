"""What the models of several runs wrote and answered for one record.

Texts as in the ROME paper's figure 6, and answers side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.evaluation.measuring.rows import GivenAnswer, Measurement
from factlab.evaluation.reporting.run_labels import UNEDITED
from factlab.evaluation.reporting.unedited import fact_of
from factlab.evaluation.running.saved_run import Run


@dataclass(frozen=True, slots=True)
class ModelTexts:
    """What one model wrote.

    Attributes:
        label: of the run, or `unedited`.
        texts: prompt and continuation, one for each generation prompt.
        reason: why there are no texts.
        answers: in its own words.
    """

    label: str
    texts: tuple[str, ...]
    reason: str = ""
    answers: tuple[GivenAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseTexts:
    """What several models wrote about one fact.

    Attributes:
        case_id: of the record.
        prompt: the rewriting prompt.
        target_new: what the edits write.
        target_true: what was true.
        models: the unedited one first, then the runs.
    """

    case_id: int
    prompt: str
    target_new: str
    target_true: str | None
    models: tuple[ModelTexts, ...]

    @property
    def statement(self) -> str:
        """The fact that was written, in one sentence."""
        was = f" (was: {self.target_true})" if self.target_true else ""
        return f"{self.prompt} {self.target_new}{was}"

    def lines(self) -> list[tuple[str, str]]:
        """Label and text, all models' texts on the first generation prompt first.

        None if there are answers and no texts at all.
        """
        if self.answer_lines() and not any(model.texts for model in self.models):
            return []
        n_texts = max(len(model.texts) for model in self.models)
        return [
            (model.label, _one_line(model.texts[i]) if model.texts else model.reason)
            for i in range(max(n_texts, 1))
            for model in self.models
            if i < len(model.texts) or (i == 0 and not model.texts)
        ]

    def answer_lines(self) -> list[list[str]]:
        """Answers side by side: form, prompt, and an answer for each model under its label.

        The first line is the head; no lines if nobody was asked.
        """
        asked = dict.fromkeys((a.form, a.prompt) for model in self.models for a in model.answers)
        if not asked:
            return []
        given = [
            {(a.form, a.prompt): _one_line(a.text) for a in model.answers} for model in self.models
        ]
        head = ["form", "asked", *(model.label for model in self.models)]
        return [head] + [
            [form, _one_line(prompt), *(own.get((form, prompt), "—") for own in given)]
            for form, prompt in asked
        ]


def collect_case_texts(
    case_id: int, runs: Sequence[tuple[str, Run]], unedited: Run
) -> list[CaseTexts]:
    """Put the texts of one record side by side.

    Args:
        case_id: of the record.
        runs: with their labels, all of one model and data set.
        unedited: what all of them measured of the unedited model.

    Returns:
        None of them if no run has measured the record; several if the runs have several records of
        this number.
    """
    collected: list[CaseTexts] = []
    for row in unedited.rows:
        if row.case_id != case_id:
            continue
        models = [_texts(UNEDITED, row.before)]
        for label, run in runs:
            own = [other for other in run.rows if fact_of(other) == fact_of(row)]
            if not own:
                models.append(ModelTexts(label, (), "not measured yet"))
            elif own[0].failed:
                models.append(ModelTexts(label, (), f"the edit failed: {own[0].failed}"))
            else:
                models.append(_texts(label, own[0].after))
        texts = CaseTexts(case_id, row.prompt, row.target_new, row.target_true, tuple(models))
        collected.append(texts)
    return collected


def _one_line(text: str) -> str:
    """A text without line breaks, and without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "�" for sign in " ".join(text.split()))


def _texts(label: str, measured: Measurement | None) -> ModelTexts:
    answers = () if measured is None else measured.answers or ()
    if measured is None or measured.written is None:
        return ModelTexts(label, (), "no texts were generated", answers)
    return ModelTexts(label, measured.written.texts, answers=answers)
