"""`Worker`: does blocks of a plan on one model, and makes a row of every case.

Records are worked on in blocks: the edits of a block are made together and measured together, each
row of a batch carrying its own edit.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from factlab.data.records import Record
from factlab.data.ripple_query import RippleQuery
from factlab.editing.background import Background
from factlab.editing.configs import Mode
from factlab.errors import InvalidRequestError
from factlab.evaluation.measuring.baseline import Unedited
from factlab.evaluation.measuring.rows import Measurement, Row
from factlab.evaluation.measuring.yardstick import Yardstick, is_finite
from factlab.evaluation.running.modes import (
    Edited,
    EditedEach,
    EditedTogether,
    Outcome,
)
from factlab.evaluation.running.planning import Evaluation, Plan
from factlab.evaluation.running.sequence import EditedSequence
from factlab.progress import ProgressCallback, silent

_KINDS: dict[Mode, type[Edited]] = {
    "each": EditedEach,
    "together": EditedTogether,
    "sequence": EditedSequence,
}
_BROKEN = "The edited model's probabilities are not finite."


class Worker(AbstractContextManager["Worker"]):
    """Does blocks of a plan on one model, in three acts.

    `measure_unedited` every block on the model as it is; `prepare` the edits that all cases share;
    then `rows` of every block. A row depends on its block and the plan alone, so that several
    workers may share the blocks of a plan out. Edits are taken off at the end of a `with` block.

    Args:
        yardstick: measures, on the model.
        asked: what the plan is of.
        plan: what to do.
        folder: of the run; edits that take long are kept in it.
        background: statistics and contexts that are at hand.
        cache: of measurements of the unedited model; factlab's own by default.
        should_stop: asked between edits where there are many to make before the first row.
        waits: whether to wait for another process that is making edits of the run.
    """

    def __init__(
        self,
        yardstick: Yardstick,
        asked: Evaluation,
        plan: Plan,
        folder: Path,
        background: Background | None = None,
        cache: Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        waits: bool = True,
    ) -> None:
        self._records, self._seed = asked.records, plan.measure.seed
        self._with_texts = plan.with_texts
        self._yardstick = yardstick
        self._unedited = Unedited(yardstick, asked.references, asked.ordinary_text, cache)
        self._before: dict[int, Measurement] = {}
        self._edited = _KINDS[asked.mode](
            lm=yardstick.lm, records=asked.records, cases=plan.cases, method=asked.method,
            config=asked.method.config.model_validate(plan.config),
            background=background or Background(), yardstick=yardstick, folder=folder,
            turn=asked.turn, with_texts=plan.with_texts, should_stop=should_stop, waits=waits,
        )  # fmt: skip

    def measure_unedited(self, block: Sequence[int]) -> None:
        """Measure some cases on the model as it is, unless that is known from an earlier run.

        Raises:
            StorageError: the cache cannot be written, or a file in it is damaged.
            ModelLoadError: the model's own probabilities are NaN or infinite.
        """
        records = [self._records[case] for case in block]
        found = self._unedited.of(records, self._texts_wanted(block))
        self._before |= zip(block, found, strict=True)

    def prepare(self, progress: ProgressCallback = silent) -> bool:
        """Do what comes before the first row; whether that was finished.

        Raises:
            EditError: all facts together cannot be written.
            StorageError: an edit cannot be kept in the folder.
        """
        return self._edited.prepare(progress)

    def rows(self, block: Sequence[int]) -> list[Row]:
        """Edit and measure some cases: a row of each, in their order.

        Raises:
            InvalidRequestError: one has not been measured on the unedited model.
            EditError: none can be written, for a reason that is not one fact's own.
        """
        unmeasured = [case for case in block if case not in self._before]
        if unmeasured:
            raise InvalidRequestError(
                f"Case {unmeasured[0]} has not been measured on the unedited model. Do that first."
            )
        outcomes = self._edited.outcomes(block, self._texts_wanted(block))
        return [
            _row(
                self._records[case], self._before[case], outcome, self._seed,
                self._yardstick.ripple_queries(self._records[case]),
            )
            for case, outcome in zip(block, outcomes, strict=True)
        ]  # fmt: skip

    def __exit__(self, *reason: Any) -> None:
        """Take edits off."""
        self._edited.__exit__(*reason)

    def _texts_wanted(self, block: Sequence[int]) -> list[bool]:
        return [case in self._with_texts for case in block]


def unwritten(row: Row) -> str:
    """Why the method could not write the fact of a row; empty if it could, whatever came of it."""
    return "" if row.failed == _BROKEN else row.failed


def _row(
    record: Record,
    before: Measurement,
    outcome: Outcome,
    seed: int,
    ripple: tuple[RippleQuery, ...],
) -> Row:
    after, failed = outcome.after, outcome.failed
    if after is not None and not is_finite(after):
        after, failed = None, _BROKEN
    fact = record.fact
    return Row(
        case_id=record.case_id,
        benchmark=record.benchmark,
        relation_id=record.relation_id,
        subject=fact.subject,
        prompt=fact.prompt,
        target_new=str(fact.target_new),
        target_true=fact.target_true,
        before=before,
        right_after=outcome.right_after,
        after=after,
        failed=failed,
        skipped=outcome.skipped,
        edit_s=outcome.edit_s,
        measure_s=outcome.measure_s,
        seed=seed,
        ripple=ripple,
    )
