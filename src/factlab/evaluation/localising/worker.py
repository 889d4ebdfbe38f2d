"""`Worker`: traces facts, edits them in every cell of the grid, and asks the edited models.

What can be shared is: a fact's rows run once on the unedited model for all its edits, traces and
texts are made once, values of the same object at the same place come from the cache, and the edits
of a block are computed together and asked together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from factlab.data.records import Record
from factlab.editing.background import Background
from factlab.editing.edit import Edit
from factlab.editing.method import FAULTS
from factlab.editing.noise_config import SubjectNoise
from factlab.editing.noised import said_under_noise
from factlab.editing.variants import Problem, problem
from factlab.errors import FactlabError, WrongModelError
from factlab.evaluation.localising.effects import fact_effects
from factlab.evaluation.localising.fact_batch import FactBatch, Key
from factlab.evaluation.localising.plan import Cell, Grid
from factlab.evaluation.localising.rows import EditRow, FactRow
from factlab.evaluation.measuring.subject_texts import subject_texts
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent

_BROKEN = "The edited model's probabilities are not finite."


@dataclass(slots=True)
class Worker:
    """Makes rows; see the module.

    Attributes:
        lm: the model, left as it is.
        records: those that are studied, in their order.
        places: of these among the records that were given.
        grid: what is done with every fact.
        noise: in traces, reversal and forcing.
        background: statistics, contexts and values that are at hand.
        progress: told what is going on inside a block.
    """

    lm: LanguageModel
    records: Sequence[Record]
    places: Sequence[int]
    grid: Grid
    noise: SubjectNoise
    background: Background = field(default_factory=Background)
    progress: ProgressCallback = silent

    def fact_row(self, place: int) -> FactRow:
        """Where a fact is held, what the corrupted run says, and texts about the subject."""
        record, config, n_layers = self.records[place], self.grid.config, self.lm.n_layers
        windows, main = config.windows_of(n_layers), config.main_window(n_layers)
        effects = fact_effects(self.lm, record.fact, self.noise, windows, main)
        (said,) = said_under_noise(self.lm, [record.fact], self.noise, config.said_tokens)
        return FactRow(
            record=self.places[place], case_id=record.case_id, prompt=record.fact.prompt,
            subject=record.fact.subject, target_true=str(record.fact.target_true),
            clean_prob=effects.clean_prob, corrupted_prob=effects.corrupted_prob, said=said,
            n_subject_tokens=effects.n_subject_tokens, effects=effects.by_window,
            peak_token=effects.peak_token, texts=self._texts(place),
            relation_id=record.relation_id or None,
        )  # fmt: skip

    def _texts(self, place: int) -> tuple[str, ...]:
        """What the unedited model writes about a subject."""
        config = self.grid.config
        (texts,) = subject_texts(
            self.lm, [self.records[place].fact.subject], [self.places[place]],
            config.essence_texts, config.essence_tokens, config.seed,
        )  # fmt: skip
        return texts

    def batch(self, facts: Mapping[int, FactRow]) -> FactBatch:
        """Some facts, ready to be edited."""
        records = {place: self.records[place] for place in facts}
        return FactBatch(self.lm, records, facts, self.grid, self.noise)

    def edit_rows(
        self, batch: FactBatch, facts: Mapping[int, FactRow], cell: Cell
    ) -> dict[Key, EditRow]:
        """All edits of a cell, computed together and asked together."""
        problems, rows = dict[Key, Problem](), dict[Key, EditRow]()
        for (place, variant), asked in batch.asked.items():
            rows[place, variant] = EditRow(
                place=place, layer=cell.layer, method=cell.method.label, variant=variant,
                failed=asked if isinstance(asked, str) else None,
            )  # fmt: skip
            if not isinstance(asked, str):
                problems[place, variant] = problem(
                    cell.method.method, self.records[place].fact, variant,
                    cell.method.config(variant, cell.layer, self.lm.n_layers),
                    facts[place].said, self.noise,
                )  # fmt: skip
        edits = self._edits(cell, problems)
        made = {key: edit for key, edit in edits.items() if isinstance(edit, Edit)}
        after = batch.after(made, self.grid.edited_layers(cell)[0])
        for key, edit in edits.items():
            changes = {"target": problems[key].target}
            if not isinstance(edit, Edit):
                changes |= {"failed": str(edit)}
            elif not all(map(math.isfinite, after[key])):
                changes |= {"failed": _BROKEN}
            else:
                changes |= {
                    "before": batch.before(key), "after": batch.told(key, after[key]),
                    "text_lengths": batch.text_lengths(key),
                }  # fmt: skip
            rows[key] = rows[key].model_copy(update=changes)
        return rows

    def _edits(self, cell: Cell, problems: Mapping[Key, Problem]) -> dict[Key, Edit | FactlabError]:
        """An edit for each problem, or why there is none; those with the same settings together."""
        alike: dict[str, list[Key]] = {}
        for key, one in problems.items():
            alike.setdefault(one.config.model_dump_json(), []).append(key)
        found: dict[Key, Edit | FactlabError] = {}
        for keys in alike.values():
            facts = [problems[key].fact for key in keys]
            try:
                edits: Sequence[Edit | FactlabError] = cell.method.method.attempts(
                    self.lm, facts, problems[keys[0]].config, self.background, self.progress
                )
            except WrongModelError:
                raise
            except FAULTS as error:
                edits = [error] * len(keys)
            found |= zip(keys, edits, strict=True)
        return {key: found[key] for key in problems}
