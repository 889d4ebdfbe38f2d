"""`EvalReport` and what it is made of: tables of lines, which print, plot and save themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from factlab.data.records import Benchmark
from factlab.data_frames import data_frame
from factlab.documents import JsonValue
from factlab.estimate import Estimate
from factlab.evaluation.reporting.case_texts import CaseTexts
from factlab.evaluation.running.saved_run import Run, RunData, RunModel
from factlab.evaluation.scoring.metrics import ProbForm
from factlab.evaluation.scoring.scores import RecordScores, Summary

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

    from factlab.figures import Picture

SIGNIFICANT = 0.05

FigureName = Literal["scores", "scores-by-edits", "scores-by-relation"]
Cell = str | int | float | None
RowKind = Literal["unedited", "run", "right_after", "published"]


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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EvalReport:
    """Scores of runs, with intervals, and all that says where they come from.

    `print(report)` shows its tables; a notebook shows them by itself.

    Attributes:
        form: of probabilities.
        tables: one for each model and data set.
    """

    form: ProbForm
    tables: tuple[ReportTable, ...]

    def __str__(self) -> str:
        from factlab.evaluation.reporting import text  # noqa: PLC0415 - it needs this module

        return text.to_text(self)

    def __repr__(self) -> str:
        from factlab.evaluation.reporting import text  # noqa: PLC0415 - it needs this module

        return text.summary(self)

    def _repr_html_(self) -> str:
        from factlab.evaluation.reporting import text  # noqa: PLC0415 - it needs this module

        return text.to_html(self)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, to the decimals that files keep."""
        if not isinstance(other, EvalReport):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.form, tuple(table.model.fingerprint for table in self.tables)))

    def to_markdown(self) -> str:
        """The tables as Markdown, with what their columns mean."""
        from factlab.evaluation.reporting import formats  # noqa: PLC0415 - it needs this module

        return formats.to_markdown(self)

    def to_csv(self) -> str:
        """One line per score; see `rows`."""
        from factlab.evaluation.reporting import formats  # noqa: PLC0415 - it needs this module

        return formats.to_csv(self)

    def to_json(self) -> dict[str, JsonValue]:
        """Everything, ready for JSON; null where there is no number."""
        from factlab.evaluation.reporting import formats  # noqa: PLC0415 - it needs this module

        return formats.to_json(self)

    def rows(self) -> list[dict[str, Cell]]:
        """One dictionary per score.

        Its keys: model, data, benchmark, row, kind, metric, value, half_width, low and high (ends
        of the 95 % interval), n, unscored, p_value, against. Values are as measured, not times 100;
        None where there is no number.
        """
        from factlab.evaluation.reporting import formats  # noqa: PLC0415 - it needs this module

        return formats.to_rows(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """`rows` as a data frame.

        Raises:
            MissingPackageError: pandas, which factlab itself does not need, is not installed.
        """
        return data_frame(self.rows())

    def plot(
        self, path: str | Path | None = None, name: FigureName = "scores", table: int = 0
    ) -> "Picture":
        """Draw one of the report's figures.

        Args:
            path: where to write it too, as .png, .pdf or .svg.
            name: `scores`: S and its parts of each line; `scores-by-edits`: S against the number of
                edits in the model; `scores-by-relation`: S of each relation.
            table: which of the report's tables to draw, from 0.

        Returns:
            A matplotlib figure, to be changed or shown; a notebook shows it by itself.

        Raises:
            InvalidRequestError: there is no such table or figure, the runs have not enough for
                it, or the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.evaluation.reporting import plots  # noqa: PLC0415 - matplotlib when drawing

        return plots.plot_figure(self, path, name, table)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.md`, `report.csv`, `report.json` and the figures into a folder.

        Returns:
            The files.

        Raises:
            StorageError: one of them cannot be written.
        """
        from factlab.evaluation.reporting import formats  # noqa: PLC0415 - it needs this module

        return formats.save_report(self, folder)
