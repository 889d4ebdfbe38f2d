"""Texts about subjects that models write with and without an edit: fluency and consistency."""

from collections.abc import Mapping, Sequence

from factlab.data.records import Record, References
from factlab.editing.edit import Edit
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import TokenisedRecords
from factlab.evaluation.measuring.asking import Asking
from factlab.evaluation.measuring.written_texts import WrittenTexts
from factlab.evaluation.probing.configs import ProbeConfig
from factlab.evaluation.probing.rows import TextScores
from factlab.models.changes.carried import carried_together, row_changes
from factlab.models.language_model import LanguageModel
from factlab.models.texts import check_length


class TextWriter:
    """Has texts written for records that have beginnings of texts.

    Args:
        lm: the model, without the edits.
        config: length and seed.
        references: texts to compare with; without any there is no consistency.

    Raises:
        InvalidRequestError: the texts are to be longer than the model can write.
    """

    def __init__(self, lm: LanguageModel, config: ProbeConfig, references: References) -> None:
        check_length(lm, config.text_tokens)
        measure = MeasureConfig(text_tokens=config.text_tokens, seed=config.seed)
        self._lm = lm
        self._written = WrittenTexts(TokenisedRecords(lm, measure), measure, references)

    def before(self, records: Mapping[int, Record]) -> dict[int, TextScores]:
        """Of the unedited model, by place."""
        places, n = [*records], len(records)
        asking = Asking(self._lm, [*records.values()], [0] * n, [""] * n, {})
        return self._scores(asking, places)

    def after(
        self, records: Mapping[int, Record], edits: Mapping[int, Edit]
    ) -> dict[int, TextScores]:
        """Of edited models, by place; each record's own edit is among the edits."""
        places, found = [place for place in records if place in edits], dict[int, TextScores]()
        updates = [edits[place].updates for place in places]
        for part in carried_together(self._lm, updates):
            some = [places[i] for i in part]
            asking = Asking(
                self._lm, [records[place] for place in some], range(len(some)),
                [edits[place].prefix for place in some],
                row_changes(self._lm, [updates[i] for i in part]),
            )  # fmt: skip
            found |= self._scores(asking, some)
        return found

    def _scores(self, asking: Asking, places: Sequence[int]) -> dict[int, TextScores]:
        wanted = [bool(record.generation_prompts) for record in asking.records]
        return {
            places[i]: TextScores(entropy=one.entropy, consistency=one.consistency)
            for i, one in self._written.of(asking, wanted).items()
        }
