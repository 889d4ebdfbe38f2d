"""Edited models to measure: one per record, or one with all facts (`sequence` has a third kind)."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock, Timeout

from factlab.data.records import Record
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import Edit
from factlab.editing.method import Method
from factlab.errors import FactlabError
from factlab.evaluation.measuring.rows import Measurement
from factlab.evaluation.measuring.yardstick import EVERYTHING, Wanted, Yardstick
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one record.

    Attributes:
        after: on the edited model; None if the edit failed.
        right_after: in a sequence, with the record's own edit as the last one.
        failed: why the edit failed.
        skipped: whether the edit left the fact out, its value having exploded.
        edit_s: seconds the edit took, a batch's time shared equally.
        measure_s: seconds that measuring took, likewise.
    """

    after: Measurement | None
    right_after: Measurement | None = None
    failed: str = ""
    skipped: bool = False
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
        config: of the method, with all settled that is the same for every record.
        background: statistics and contexts.
        yardstick: measures.
        folder: of the run; edits that take long are kept in it.
        turn: facts that a sequence writes in one edit.
        with_texts: cases that texts are generated for, whenever all are measured.
        should_stop: asked between edits where there are many to make before the first record.
        waits: whether to wait for another process that is making the edits of the run.
    """

    lm: LanguageModel
    records: Sequence[Record]
    cases: Sequence[int]
    method: Method
    config: MethodConfig
    background: Background
    yardstick: Yardstick
    folder: Path
    turn: int
    with_texts: frozenset[int]
    should_stop: Callable[[], bool]
    waits: bool = True

    def prepare(self, progress: ProgressCallback) -> bool:
        """Do what comes before the first record; whether that was finished."""
        del progress  # nothing that takes long
        return True

    @abstractmethod
    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Edit and measure some cases."""

    def __exit__(self, *reason: Any) -> None:
        """Take edits off."""

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """A block in which no other process makes edits of this run.

        Yields:
            False if another does, and is not to be waited for.
        """
        lock = FileLock(self.folder / ".edit.lock")
        try:
            lock.acquire(timeout=-1 if self.waits else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _measured(
        self,
        cases: Sequence[int],
        edits: Sequence[Edit] | None,
        generated: Sequence[bool],
        wanted: Wanted = EVERYTHING,
        prefix: str = "",
    ) -> list[Outcome]:
        """Measurements of cases, and the time they took."""
        began = perf_counter()
        records = [self.records[case] for case in cases]
        found = self.yardstick.measure(records, edits, generated, wanted, prefix)
        measure_s = (perf_counter() - began) / max(1, len(cases))
        return [Outcome(measurement, measure_s=measure_s) for measurement in found]


class EditedEach(Edited):
    """For every record a model with its own edit only."""

    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Edit all facts of the block together, each for itself, and measure them together."""
        began = perf_counter()
        facts = [self.records[case].fact for case in block]
        attempts = [
            self._askable(case, attempt)
            for case, attempt in zip(
                block,
                self.method.attempts(self.lm, facts, self.config, self.background),
                strict=True,
            )
        ]
        edit_s = (perf_counter() - began) / len(block)
        edits = {i: edit for i, edit in enumerate(attempts) if isinstance(edit, Edit)}
        measured = self._measured(
            [block[i] for i in edits], [*edits.values()], [generated[i] for i in edits]
        )
        by_place = dict(zip(edits, measured, strict=True))
        return [
            Outcome(None, failed=str(attempt), edit_s=edit_s)
            if isinstance(attempt, FactlabError)
            else replace(by_place[i], edit_s=edit_s, skipped=bool(attempt.skipped))
            for i, attempt in enumerate(attempts)
        ]

    def _askable(self, case: int, attempt: Edit | FactlabError) -> Edit | FactlabError:
        """An edit; or why the record's prompts cannot be asked behind its text."""
        if isinstance(attempt, Edit) and attempt.prefix:
            try:
                self.yardstick.texts.of(self.records[case], attempt.prefix)
            except FactlabError as error:
                return error
        return attempt


class EditedTogether(Edited):
    """One model with all facts, written in one edit, which is kept in the folder `edit`."""

    _applied: AbstractContextManager[object] | None = None
    _edit_s: float = 0.0
    _prefix: str = ""
    _skipped: frozenset[int] = frozenset()

    def prepare(self, progress: ProgressCallback) -> bool:
        """Compute the edit, unless another process of this run has."""
        path = self.folder / "edit"
        with self._alone() as is_mine:
            if not is_mine:
                return False
            if not (path / "edit.json").exists():
                began = perf_counter()
                facts = [self.records[case].fact for case in self.cases]
                edit = self.method.together(self.lm, facts, self.config, self.background, progress)
                seconds = (perf_counter() - began) / len(facts)
                edit = replace(edit, diagnostics=edit.diagnostics | {"seconds_per_fact": seconds})
                edit.save(path)
        edit = Edit.load(path)
        self._edit_s = float(edit.diagnostics.get("seconds_per_fact", 0.0))
        left_out = {fact.question for fact in edit.skipped}
        self._skipped = frozenset(
            case for case in self.cases if self.records[case].fact.question in left_out
        )
        self._prefix = edit.prefix
        if edit.prefix:
            edit.check_model(self.lm)
            for case in self.cases:  # before the first is measured
                self.yardstick.texts.of(self.records[case], edit.prefix)
            return True
        applied = edit.applied(self.lm)
        applied.__enter__()
        self._applied = applied
        return True

    def outcomes(self, block: Sequence[int], generated: Sequence[bool]) -> list[Outcome]:
        """Measure some cases."""
        found = self._measured(block, None, generated, prefix=self._prefix)
        return [
            replace(outcome, edit_s=self._edit_s, skipped=case in self._skipped)
            for case, outcome in zip(block, found, strict=True)
        ]

    def __exit__(self, *reason: Any) -> None:
        """Take the edit off."""
        if self._applied is not None:
            self._applied.__exit__(*reason)
