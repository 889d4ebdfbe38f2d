"""The tables of a report: one for each model and data set, with a line for each run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.reporting.case_texts import CaseTexts
from factlab.evaluation.running.saved_run import Run, RunData, RunModel
from factlab.evaluation.scoring.ripple_scores import AxisScores
from factlab.evaluation.scoring.scores import RecordScores, Stage, Summary

SIGNIFICANT = 0.05

FigureName = Literal["scores", "scores-by-edits", "scores-by-relation"]
Cell = str | int | float | None
RowKind = Literal["unedited", "run", "right_after", "published"]
# What of a run's rows each kind of line shows.
STAGES: Mapping[RowKind, Stage] = {
    "unedited": "before",
    "run": "after",
    "right_after": "right_after",
}


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One line of a table.

    Attributes:
        label: names it; no other line of the table has the same.
        kind: the unedited model, a run, the same run right after each edit, or a published line.
        summary: the scores.
        model: name of the model that was measured; of a published line, that of the paper.
        data: name of the records that were measured, likewise.
        run: where they come from; None of a published line.
        records: scores of single records; empty of a published line.
        relations: by relation, what `relation_means` gives.
        p_values: by metric, of the difference from the row compared with; empty if there is none.
        seconds: `s_per_edit` and `s_per_record` (edit and measurement), if asked for.
        ripple: scores of the ripple suite by axis, if the run has it.
        in_chat: whether the prompts were asked in the model's chat template.
    """

    label: str
    kind: RowKind
    summary: Summary
    model: str
    data: str
    run: Run | None = None
    records: tuple[RecordScores, ...] = ()
    relations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    p_values: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, Estimate] = field(default_factory=dict)
    ripple: tuple[AxisScores, ...] = ()
    in_chat: bool = False

    @property
    def kind_name(self) -> str:
        """The kind as files have it: one that is asked in the chat template is another."""
        return f"{self.kind}_in_chat" if self.in_chat else self.kind

    def differs(self, metric: str) -> bool:
        """Whether it differs significantly from the row compared with."""
        return self.p_values.get(metric, 1.0) < SIGNIFICANT


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The runs of one model on one data set.

    Attributes:
        model: that was edited.
        data: that was measured; of the run with the most records, if runs have parts of it.
        columns: names of the metrics to show; a report's files have all of them.
        rows: unedited, runs, published.
        against: label of the row that the others are compared with, if it is in this table.
        cases: texts of single records, if asked for.
    """

    model: RunModel
    data: RunData
    columns: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    against: str | None = None
    cases: tuple[CaseTexts, ...] = ()

    @property
    def benchmark(self) -> Benchmark:
        """Which benchmark the data belong to."""
        return self.data.benchmark
