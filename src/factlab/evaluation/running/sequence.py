"""One model with all facts, written turn by turn, which is asked again and again on the way.

    FOLDER/
      edits/CASE/     the edit of every turn, by its first case
      right-after/    a journal: what each record says right after the edit of its turn
      checkpoints/    a journal: what all records so far say after so many facts, and the drift

A run that was killed puts the edits on again that are there, and goes on with the next turn.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

from factlab.editing.edit import Edit
from factlab.editing.method import FAULTS
from factlab.editing.runs import EditSequence
from factlab.errors import StorageError
from factlab.evaluation.measuring.rows import Measurement
from factlab.evaluation.measuring.yardstick import Wanted, is_finite
from factlab.evaluation.running.checkpoints import CHECKPOINTS, SavedCheckpoint
from factlab.evaluation.running.modes import Edited, Outcome
from factlab.journal import Journal, Line, Writer
from factlab.progress import ProgressCallback
from factlab.shards import Shard

_AT_ONCE = 16  # records that are measured together at a checkpoint


class _Kept(NamedTuple):
    """A journal and who writes to it."""

    journal: Journal
    writer: Writer


@dataclass(kw_only=True)
class EditedSequence(Edited):
    """One model with all facts, written turn by turn."""

    _sequence: EditSequence | None = None
    _right_after: Mapping[int, Outcome] = field(default_factory=lambda: MappingProxyType({}))

    def prepare(self, progress: ProgressCallback) -> bool:
        """Write all facts, asking each right after its own edit; whether that was finished."""
        sequence = EditSequence(self.lm, self.method, self.config, self.background)
        self._sequence = sequence
        due = self._due()
        with ExitStack() as opened:
            if not opened.enter_context(self._alone()):
                return False
            told = self._kept("right-after", opened)
            taken = self._kept(CHECKPOINTS, opened) if due else None
            missing = [case for case in self.cases if case not in told.journal.records]
            if missing:
                # What they need is that of the model before the first edit.
                sequence.prepare([self.records[case].fact for case in missing], progress)
            for start in range(0, len(self.cases), self.turn):
                if self.should_stop():
                    return False
                progress("editing in sequence", start, len(self.cases))
                turn = self.cases[start : start + self.turn]
                self._take_turn(sequence, turn, told)
                n_written = start + len(turn)
                if taken and n_written in due and n_written not in taken.journal.records:
                    so_far = self._checkpoint(self.cases[:n_written], told.journal.records)
                    taken.writer.append(n_written, so_far)
        self._right_after = {
            case: _from_json(record, told.journal.folder)
            for case, record in told.journal.records.items()
        }
        return True

    @property
    def _prefix(self) -> str:
        """What stands in front of prompts by now, of edits that are texts."""
        return "" if self._sequence is None else self._sequence.prefix

    def _kept(self, name: str, opened: ExitStack) -> _Kept:
        request: Line = {"cases": [*self.cases]}
        journal = Journal.open(self.folder / name, request, dict, resume=True)
        return _Kept(journal, opened.enter_context(journal.writing(Shard())))

    def _due(self) -> set[int]:
        """After how many facts there are checkpoints: one inside a turn is taken at its end.

        There is none after the last fact, when all records are asked in any case.
        """
        wanted = self.yardstick.config.checkpoints
        ends = {-(-n // self.turn) * self.turn for n in wanted}
        return {n for n in ends if n < len(self.cases)}

    def _take_turn(self, sequence: EditSequence, turn: Sequence[int], told: _Kept) -> None:
        """Put the edit of a turn on, computing it if need be."""
        path, records = self.folder / "edits" / str(turn[0]), told.journal.records
        if all(case in records for case in turn):
            if not all(records[case]["failed"] for case in turn):
                sequence.put(Edit.load(path))
            return
        outcomes = self._written(sequence, turn, path)
        for case, outcome in zip(turn, outcomes, strict=True):
            if case not in records:
                told.writer.append(case, _to_json(outcome))

    def _written(
        self, sequence: EditSequence, turn: Sequence[int], path: Path
    ) -> Sequence[Outcome]:
        began = perf_counter()
        try:
            edit = sequence.write([self.records[case].fact for case in turn])
        except FAULTS as error:
            edit_s = (perf_counter() - began) / len(turn)
            return [Outcome(None, failed=str(error), edit_s=edit_s)] * len(turn)
        edit_s = (perf_counter() - began) / len(turn)
        edit.save(path, overwrite=True)  # a kill may have left one whose record is missing
        wanted = Wanted(drift=not self.yardstick.config.checkpoints)
        measured = self._asked(turn, frozenset(), wanted)
        left_out = {fact.question for fact in edit.skipped}
        return [
            replace(outcome, edit_s=edit_s, skipped=self.records[case].fact.question in left_out)
            for case, outcome in zip(turn, measured, strict=True)
        ]

    def _asked(
        self, cases: Sequence[int], with_texts: frozenset[int], wanted: Wanted
    ) -> list[Outcome]:
        """What records say now, and what is written about some."""
        found: list[Outcome] = []
        for start in range(0, len(cases), _AT_ONCE):
            some = cases[start : start + _AT_ONCE]
            generated = [case in with_texts for case in some]
            found += self._measured(some, None, generated, wanted, self._prefix)
        # A broken edit stays on, as in any sequence; JSON has no NaN.
        return [
            outcome if outcome.after is None or is_finite(outcome.after)
            else replace(outcome, after=None)
            for outcome in found
        ]  # fmt: skip

    def _checkpoint(self, cases: Sequence[int], told: Mapping[int, Line]) -> Line:
        """What all records so far say, and the drift."""
        written = [case for case in cases if not told[case]["failed"]]
        found = self._asked(written, self.with_texts, Wanted(drift=False, answers=False))
        after = {case: outcome.after for case, outcome in zip(written, found, strict=True)}
        drift = self.yardstick.drift()
        if drift is not None and not drift.is_finite:
            drift = None
        return SavedCheckpoint(drift=drift, after=after).model_dump(mode="json")

    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Measure some cases with all edits applied."""
        found = self._measured(block, None, generated, prefix=self._prefix)
        return [
            replace(
                now,
                after=None if own.failed else now.after,
                right_after=own.after,
                failed=own.failed,
                skipped=own.skipped,
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
        "skipped": outcome.skipped,
        "edit_s": outcome.edit_s,
    }


def _from_json(record: Line, folder: Path) -> Outcome:
    try:
        after = record["after"]
        return Outcome(
            None if after is None else Measurement.model_validate(after),
            failed=str(record["failed"]),
            skipped=bool(record.get("skipped", False)),
            edit_s=float(str(record["edit_s"])),
        )
    except (KeyError, ValueError) as error:
        raise StorageError(f"A record of '{folder}' is damaged: {error!r}.") from error
