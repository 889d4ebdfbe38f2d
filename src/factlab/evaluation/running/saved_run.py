"""An evaluation as it lies on disk: what was asked for, and one row per record so far."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from factlab.config import without_retired
from factlab.data.records import Benchmark
from factlab.data_frames import data_frame
from factlab.documents import JsonValue, check_format, validated
from factlab.evaluation.measuring.rows import Drift, Row
from factlab.evaluation.measuring.verdicts import Verdicts
from factlab.evaluation.running.checkpoints import SavedCheckpoint, load_checkpoints
from factlab.evaluation.scoring.scores import (
    ANSWER_METRICS,
    NOT_IN_CHAT,
    SCORE_PARTS,
    Stage,
    score_row,
)
from factlab.journal import Journal
from factlab.results import Result, known

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

FORMAT = "factlab evaluation 1"
ADVICE = "Run that evaluation again in a new folder."


class RunModel(BaseModel):
    """The model that was edited.

    Attributes:
        name: where it was loaded from.
        fingerprint: of its weights, applied edits included.
        tokenizer: digest of its tokenizer; runs of factlab 0.1 do not say it.
        dtype: of its weights.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    fingerprint: str
    tokenizer: str = ""
    dtype: str


class RunData(BaseModel):
    """The records that were measured.

    Attributes:
        name: of the data set, or of its file.
        sha256: of the records.
        n_records: that were given to the run.
        benchmark: which one it belongs to.
        references: hash of the texts that generated ones were compared with.
        ordinary_text: hash of the passages for the drift, if that was measured.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    n_records: int
    benchmark: Benchmark
    references: str = ""
    ordinary_text: str | None = None


class RunRequest(BaseModel):
    """What a report needs to know of what was asked for.

    Attributes:
        model: what was edited.
        data: what was measured.
        method: what wrote the facts.
        config: of the method; None for its defaults.
        mode: `each` for one edited model per record, `together` or `sequence` for one with all.
        turn: in a sequence, facts of one edit.
        checkpoints: after how many facts all records so far were asked.
        generation: settings of the generated texts, if any.
        drift_tokens: of ordinary text on which the drift was measured.
        answers: forms and length of answers in the model's own words, if any.
        seed: of everything that is drawn.
        ripple: how many ripple queries were asked, if any.
        chat: what the chat template puts around prompts, if they were asked in it.
    """

    model_config = ConfigDict(frozen=True)

    model: RunModel
    data: RunData
    method: str
    config: JsonValue = None
    mode: str = "each"
    turn: int = 1
    checkpoints: tuple[int, ...] = ()
    generation: JsonValue = None
    drift_tokens: int = 0
    answers: JsonValue = None
    seed: int = 0
    ripple: JsonValue = None
    chat: JsonValue = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A sequence on its way.

    Attributes:
        n: facts that had been written.
        drift: of the model then; None if it was not asked for, or the model was broken.
        rows: of the records so far, `after` being measured then.
    """

    n: int
    drift: Drift | None
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Run(Result):
    """One evaluation, finished or not.

    `fl.report([run])` makes scores of it; `run.table()` has those of every record.

    Attributes:
        request: what was asked for.
        versions: of what it ran with; several, with commas between, if it went on with others.
        config: of the method, with what the first edit settled.
        n_cases: how many records it is about.
        n_unusable: how many more were given that cannot be asked of this model.
        rows: of those that are done, by case.
        checkpoints: of a sequence, in their order; the end is none of them.
        judge: name of the model that has judged answers, if one has.
    """

    request: RunRequest
    versions: Mapping[str, str]
    config: JsonValue
    n_cases: int
    n_unusable: int
    rows: tuple[Row, ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    judge: str = ""

    def __repr__(self) -> str:
        asked = self.request
        done = f"{len(self.rows)} of {self.n_cases} records of {asked.data.name}"
        return f"Run({asked.method}, {asked.mode}, {done}, {asked.model.name})"

    def __hash__(self) -> int:
        asked = self.request
        return hash((asked.model.fingerprint, asked.data.sha256, asked.method, len(self.rows)))

    def table(self) -> list[dict[str, Any]]:
        """One dictionary per record, with every score of its benchmark.

        Its keys: case_id, relation, subject, prompt, target_new, target_true, failed (why the edit
        failed), edit_s, measure_s, and for each score NAME (with the edit) and NAME_before
        (without), of a run with `chat` also NAME_in_chat and NAME_in_chat_before; None where a
        record has no such score. Scores are as measured, not times 100. Those
        of free answers are there if these were asked for.
        """
        hidden = frozenset[str]() if self.request.answers else frozenset(ANSWER_METRICS)
        return [
            {
                "case_id": row.case_id,
                "relation": row.relation_id,
                "subject": row.subject,
                "prompt": row.prompt,
                "target_new": row.target_new,
                "target_true": row.target_true,
                "failed": row.failed,
                "edit_s": row.edit_s,
                "measure_s": row.measure_s,
                **_scores(row, "after", "", hidden),
                **_scores(row, "before", "_before", hidden),
                **(_scores(row, "after", "_in_chat", hidden, True) if self.request.chat else {}),
                **(
                    _scores(row, "before", "_in_chat_before", hidden, True)
                    if self.request.chat
                    else {}
                ),
            }
            for row in self.rows
        ]

    def to_pandas(self) -> "pandas.DataFrame":
        """`table` as a data frame.

        Raises:
            MissingPackageError: pandas, which factlab itself does not need, is not installed.
        """
        return data_frame(self.table())

    def _tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        shown = ("case_id", "prompt", "target_new", *SCORE_PARTS[self.request.data.benchmark])
        return {"": [{name: row[name] for name in shown} for row in self.table()]}

    def shares_table(self, other: "Run") -> bool:
        """Whether both are of one model and one data set, perhaps of different parts of it."""
        ours, theirs = self.request, other.request
        return (
            ours.data.benchmark == theirs.data.benchmark
            and ours.model.fingerprint == theirs.model.fingerprint
            and ours.model.tokenizer == theirs.model.tokenizer
            and ours.model.dtype == theirs.model.dtype
            and (ours.data.sha256 == theirs.data.sha256 or ours.data.name == theirs.data.name)
        )

    @property
    def n_missing(self) -> int:
        """Records not done yet."""
        return self.n_cases - len(self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Records whose edit failed."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def impossible(self) -> str | None:
        """Why no record that was tried could be edited, in the words of the first; else None."""
        failed = self.failed
        return failed[0].failed if failed and len(failed) == len(self.rows) else None

    @property
    def n_edits(self) -> int:
        """How many edits are in a model that was measured."""
        return 1 if self.request.mode == "each" else self.n_cases


def _scores(
    row: Row, stage: Stage, ending: str, hidden: frozenset[str], in_chat: bool = False
) -> dict[str, float | None]:
    """The scores of a record; None where there is none."""
    values = score_row(row, stage, in_chat=in_chat).values
    return {
        f"{name}{ending}": known(score.value)
        for name, score in values.items()
        if name not in hidden and not (in_chat and score.reason == NOT_IN_CHAT)
    }


def load_run(folder: str | Path) -> Run:
    """Read the folder of an evaluation.

    Raises:
        StorageError: it holds no such run, or is damaged; names the record.
    """
    folder = Path(folder)
    journal = Journal.load(folder)
    found, where = journal.findings, f"'{folder / 'run.json'}'"
    check_format(journal.request.get("format"), FORMAT, where, "of an evaluation")
    request = validated(RunRequest, journal.request, where, ADVICE)
    cases, unusable = journal.cases(request.data.n_records), found.get("unusable")
    by_case = {
        case: validated(Row, journal.records[case], f"Case {case} of '{folder}'", ADVICE)
        for case in sorted(journal.records)
    }
    rows = sorted(by_case.values(), key=_case_id)
    verdicts = Verdicts.load(folder)
    if verdicts is not None:
        rows = [verdicts.put_in(row) for row in rows]
    return Run(
        request=request,
        versions=_together(journal.versions),
        config=without_retired(found.get("config", request.config)),
        n_cases=len(cases),
        n_unusable=len(unusable) if isinstance(unusable, dict) else 0,
        rows=tuple(rows),
        checkpoints=tuple(
            Checkpoint(n, saved.drift, tuple(sorted(_rows_then(saved, by_case), key=_case_id)))
            for n, saved in load_checkpoints(folder).items()
        ),
        judge="" if verdicts is None else verdicts.model,
    )


def _case_id(row: Row) -> int:
    return row.case_id


def _rows_then(saved: SavedCheckpoint, by_case: Mapping[int, Row]) -> Iterator[Row]:
    """Rows of a checkpoint, of the records whose own rows are done."""
    for case, after in saved.after.items():
        if case in by_case:
            yield by_case[case].model_copy(update={"after": after})


def _together(sittings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Every version of every program."""
    found: dict[str, list[str]] = {}
    for versions in sittings:
        for name, version in versions.items():
            known = found.setdefault(name, [])
            if version not in known:
                known.append(version)
    return {name: ", ".join(known) for name, known in found.items()}
