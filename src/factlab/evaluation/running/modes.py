"""Edited models to measure: one per record, one with all facts, or one that grows fact by fact."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from filelock import FileLock
from pydantic import BaseModel

from factlab.data.records import Record
from factlab.editing.background import Background
from factlab.editing.edit import Edit
from factlab.editing.methods import Method
from factlab.editing.runs import EditSequence, together_of
from factlab.errors import EditError, InvalidRequestError, StorageError, TokenizationError
from factlab.evaluation.measuring.rows import Measurement
from factlab.evaluation.measuring.yardstick import Yardstick, is_finite
from factlab.journal import Journal, Shard
from factlab.journal import Record as Line
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent

# What a fact can do wrong by itself; anything else ends the run.
FAILURES = (EditError, InvalidRequestError, TokenizationError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one record.

    Attributes:
        after: on the edited model; None if the edit failed.
        right_after: in a sequence, with the record's own edit as the last one.
        failed: why the edit failed.
        edit_s: seconds the edit took, a batch's time shared equally.
        measure_s: seconds that measuring took, likewise.
    """

    after: Measurement | None
    right_after: Measurement | None = None
    failed: str = ""
    edit_s: float = 0.0
    measure_s: float = 0.0


@dataclass(kw_only=True)
class Edited(AbstractContextManager["Edited"]):
    """Edited models and what records say on them; edits are taken off at the end of the block.

    Attributes:
        lm: the model.
        records: all of the run.
        cases: those that can be used.
        method: writes the facts.
        config: of the method, with everything settled.
        background: statistics and contexts.
        yardstick: measures.
        folder: of the run; edits that take long are kept in it.
        should_stop: asked between edits where there are many to make before the first record.
    """

    lm: LanguageModel
    records: Sequence[Record]
    cases: Sequence[int]
    method: Method
    config: BaseModel
    background: Background
    yardstick: Yardstick
    folder: Path
    should_stop: Callable[[], bool]

    def prepare(self, progress: ProgressCallback) -> bool:
        """Do what comes before the first record; whether that was finished."""
        del progress  # nothing that takes long
        return True

    @abstractmethod
    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Edit and measure some cases."""

    def __exit__(self, *reason: Any) -> None:
        """Take edits off."""

    def _measured(
        self, cases: Sequence[int], edits: Sequence[Edit] | None, generated: Sequence[bool]
    ) -> list[Outcome]:
        """Measurements of cases, and the time they took."""
        began = perf_counter()
        records = [self.records[case] for case in cases]
        found = self.yardstick.measure(records, edits, generated)
        measure_s = (perf_counter() - began) / max(1, len(cases))
        return [Outcome(measurement, measure_s=measure_s) for measurement in found]


class EditedEach(Edited):
    """For every record a model with its own edit only."""

    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Edit all facts of the block together, each for itself, and measure them together."""
        began = perf_counter()
        edits = self._edits(block)
        edit_s = (perf_counter() - began) / len(block)
        made = [i for i, edit in enumerate(edits) if isinstance(edit, Edit)]
        measured = self._measured(
            [block[i] for i in made],
            [edit for edit in edits if isinstance(edit, Edit)],
            [generated[i] for i in made],
        )
        by_place = dict(zip(made, measured, strict=True))
        return [
            Outcome(None, failed=edit, edit_s=edit_s)
            if isinstance(edit, str)
            else replace(by_place[i], edit_s=edit_s)
            for i, edit in enumerate(edits)
        ]

    def _edits(self, block: Sequence[int]) -> list[Edit | str]:
        """The edits, or why there is none."""
        facts = [self.records[case].fact for case in block]
        try:
            return [*self.method.each(self.lm, facts, self.config, self.background, silent)]
        except FAILURES as error:
            if len(block) == 1:
                return [str(error)]
        # One of them fails: find out which.
        return [edit for case in block for edit in self._edits([case])]


class EditedTogether(Edited):
    """One model with all facts, written in one edit, which is kept in the folder `edit`."""

    _applied: AbstractContextManager[object] | None = None
    _edit_s: float = 0.0

    def prepare(self, progress: ProgressCallback) -> bool:
        """Compute the edit, unless another process of this run has."""
        write, path = together_of(self.method), self.folder / "edit"
        with FileLock(self.folder / ".edit.lock"):
            if not (path / "edit.json").exists():
                began = perf_counter()
                facts = [self.records[case].fact for case in self.cases]
                edit = write(self.lm, facts, self.config, self.background, progress)
                seconds = (perf_counter() - began) / len(facts)
                edit = replace(edit, diagnostics=edit.diagnostics | {"seconds_per_fact": seconds})
                edit.save(path)
        edit = Edit.load(path)
        self._edit_s = float(edit.diagnostics.get("seconds_per_fact", 0.0))
        applied = edit.applied(self.lm)
        applied.__enter__()
        self._applied = applied
        return True

    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Measure some cases."""
        found = self._measured(block, None, generated)
        return [replace(outcome, edit_s=self._edit_s) for outcome in found]

    def __exit__(self, *reason: Any) -> None:
        """Take the edit off."""
        if self._applied is not None:
            self._applied.__exit__(*reason)


class EditedSequence(Edited):
    """One model with all facts, written one after the other.

    Edits are kept in the folder `edits`, and what each record says right after its own edit in a
    journal in `right-after`, so that a killed run goes on with the next fact.
    """

    _sequence: EditSequence | None = None
    _right_after: Mapping[int, Outcome] = MappingProxyType({})

    def prepare(self, progress: ProgressCallback) -> bool:
        """Write all facts, asking each right after its own edit; whether that was finished."""
        folder = self.folder / "right-after"
        sequence = EditSequence(self.lm, self.method, self.config, self.background)
        self._sequence = sequence
        with FileLock(self.folder / ".edit.lock"):
            journal = Journal.open(folder, {"cases": [*self.cases]}, dict, resume=True)
            with journal.writing(Shard()) as writer:
                self._look_at_unedited(journal)
                for done, case in enumerate(self.cases):
                    if self.should_stop():
                        return False
                    progress("editing in sequence", done, len(self.cases))
                    path = self.folder / "edits" / str(case)
                    if case not in journal.records:
                        outcome = self._write(sequence, case, path)
                        writer.append(case, _to_json(outcome))
                    elif not journal.records[case]["failed"]:
                        sequence.put(Edit.load(path))
        self._right_after = {
            case: _from_json(record, folder) for case, record in journal.records.items()
        }
        return True

    def _look_at_unedited(self, journal: Journal) -> None:
        """Let the method find statistics and contexts, which are those before the first edit.

        A run that goes on puts earlier edits on the model before it computes one; by then it would
        be too late. The edit itself is thrown away.
        """
        written = [case for case, record in journal.records.items() if not record["failed"]]
        if written and len(journal.records) < len(self.cases):
            facts = [self.records[min(written)].fact]
            self.method.each(self.lm, facts, self.config, self.background, silent)

    def _write(self, sequence: EditSequence, case: int, path: Path) -> Outcome:
        began = perf_counter()
        try:
            edit = sequence.write([self.records[case].fact])
        except FAILURES as error:
            return Outcome(None, failed=str(error), edit_s=perf_counter() - began)
        edit_s = perf_counter() - began
        edit.save(path, overwrite=True)  # a kill may have left one whose record is missing
        (outcome,) = self._measured([case], None, [False])
        if outcome.after is not None and not is_finite(outcome.after):
            # The edit stays on, as in any sequence; JSON has no NaN.
            outcome = replace(outcome, after=None)
        return replace(outcome, edit_s=edit_s)

    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Measure some cases with all edits applied."""
        found = self._measured(block, None, generated)
        return [
            replace(
                now,
                after=None if own.failed else now.after,
                right_after=own.after,
                failed=own.failed,
                edit_s=own.edit_s,
            )
            for now, own in zip(found, (self._right_after[case] for case in block), strict=True)
        ]

    def __exit__(self, *reason: Any) -> None:
        """Take the edits off."""
        if self._sequence is not None:
            self._sequence.__exit__(*reason)


def _to_json(outcome: Outcome) -> Line:
    after = outcome.after
    return {
        "after": None if after is None else after.model_dump(mode="json"),
        "failed": outcome.failed,
        "edit_s": outcome.edit_s,
    }


def _from_json(record: Line, folder: Path) -> Outcome:
    try:
        after = record["after"]
        return Outcome(
            None if after is None else Measurement.model_validate(after),
            failed=str(record["failed"]),
            edit_s=float(str(record["edit_s"])),
        )
    except (KeyError, ValueError) as error:
        raise StorageError(f"A record of '{folder}' is damaged: {error!r}.") from error
