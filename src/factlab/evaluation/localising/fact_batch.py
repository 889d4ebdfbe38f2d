"""Some facts that are studied together: everything that their edited models will be asked."""

from collections.abc import Mapping, Sequence

from factlab.continuations import Continuation
from factlab.data.records import Record
from factlab.editing.edit import Edit
from factlab.editing.noise_config import SubjectNoise
from factlab.editing.noised import NoisedSubjects
from factlab.editing.variants import Variant, nothing_said
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.evaluation.localising.asked import AskedRows
from factlab.evaluation.localising.edited import KeptRows
from factlab.evaluation.localising.plan import Grid
from factlab.evaluation.localising.rows import FactRow
from factlab.evaluation.scoring.problem_scores import Told
from factlab.models.changes.carried import carried_together, row_changes
from factlab.models.language_model import LanguageModel

# A fact's place among those that are studied, and what is asked of it.
Key = tuple[int, Variant]


class FactBatch:
    """See the module. Rows that several variants have in common are run once.

    Args:
        lm: the model.
        records: by place.
        facts: their own rows, by place.
        grid: what is done with every fact.
        noise: on the subjects, in forcing.

    Attributes:
        asked: what is asked of each fact for each variant; a reason where nothing can be.
    """

    def __init__(
        self,
        lm: LanguageModel,
        records: Mapping[int, Record],
        facts: Mapping[int, FactRow],
        grid: Grid,
        noise: SubjectNoise,
    ) -> None:
        self._lm = lm
        forces = "forcing" in grid.variants
        self._noised = NoisedSubjects(lm, noise if forces else None)
        self.asked: dict[Key, AskedRows | str] = {
            (place, variant): self._asked(record, facts[place], variant, grid)
            for place, record in records.items()
            for variant in grid.variants
        }
        rows: dict[Continuation, int] = {}
        self._numbers: dict[Key, list[int]] = {}
        for key, one in self.asked.items():
            if isinstance(one, AskedRows):
                self._numbers[key] = [rows.setdefault(row, len(rows)) for row in one.rows]
        with lm.frozen(), self._noised.present():
            self._kept = KeptRows(lm, list(rows), grid.first_layers)

    def _asked(
        self, record: Record, fact: FactRow, variant: Variant, grid: Grid
    ) -> AskedRows | str:
        target = target_of(record, fact, variant)
        if not target:
            return str(nothing_said(fact.prompt))
        noised = self._noised if variant == "forcing" else None
        n_tokens = grid.config.essence_tokens
        try:
            return AskedRows.of(self._lm, record, target, fact.texts, noised, n_tokens)
        except (InvalidRequestError, TokenizationError) as error:
            return str(error)

    def before(self, key: Key) -> Told:
        """How the unedited model takes what is asked."""
        asked = self._asked_of(key)
        return asked.told([self._kept.logprobs[i] for i in self._numbers[key]])

    def after(self, edits: Mapping[Key, Edit], layer: int) -> dict[Key, list[float]]:
        """The log-probabilities of what is asked, in each edited model.

        Args:
            edits: one for each key.
            layer: the first that any of them changes.
        """
        keys, found = list(edits), dict[Key, list[float]]()
        changes = [edits[key].updates for key in keys]
        for part in carried_together(self._lm, changes):
            some = [keys[i] for i in part]
            carried = row_changes(self._lm, [changes[i] for i in part])
            asked = [(n, owner) for owner, key in enumerate(some) for n in self._numbers[key]]
            with self._lm.frozen(), self._noised.present():
                values = iter(self._kept.edited(layer, asked, carried))
            found |= {key: [next(values) for _ in self._numbers[key]] for key in some}
        return found

    def told(self, key: Key, logprobs: Sequence[float]) -> Told:
        """Log-probabilities, in the order of `after`, by what was asked."""
        return self._asked_of(key).told(logprobs)

    def text_lengths(self, key: Key) -> tuple[int, ...]:
        """Tokens of the texts about the subject."""
        return self._asked_of(key).text_lengths

    def _asked_of(self, key: Key) -> AskedRows:
        asked = self.asked[key]
        if isinstance(asked, str):
            raise InvalidRequestError(asked)
        return asked


def target_of(record: Record, fact: FactRow, variant: Variant) -> str:
    """The object whose probability an edit is to change; empty if there is none."""
    match variant:
        case "injection":
            return record.fact.target_new or ""
        case "reversal":
            return fact.said
        case _:
            return record.fact.target_true or ""
