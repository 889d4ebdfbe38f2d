"""`EvalReport`: scores of runs side by side, which print, plot and save themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.documents import JsonValue
from factlab.errors import InvalidRequestError
from factlab.evaluation.reporting import formats
from factlab.evaluation.reporting.tables import Cell, FigureName, ReportTable
from factlab.evaluation.reporting.text import summary, to_html, to_text
from factlab.evaluation.scoring.metrics import ProbForm
from factlab.results import Drawn, Tabular

if TYPE_CHECKING:
    from factlab.figures import Picture


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EvalReport(Tabular, Drawn):
    """Scores of runs, with intervals, and all that says where they come from.

    `print(report)` shows its tables; a notebook shows them by itself.

    Attributes:
        form: of probabilities.
        tables: one for each model and data set.
    """

    form: ProbForm
    tables: tuple[ReportTable, ...]

    def __str__(self) -> str:
        return to_text(self)

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        return to_html(self)

    def _pictures(self) -> "Sequence[Picture]":
        try:
            return [self.plot()]
        except InvalidRequestError:  # the runs have not enough for a figure yet
            return ()

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, to the decimals that files keep."""
        if not isinstance(other, EvalReport):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.form, tuple(table.model.fingerprint for table in self.tables)))

    def to_markdown(self) -> str:
        """The tables as Markdown, with what their columns mean."""
        return formats.to_markdown(self)

    def to_csv(self) -> str:
        """One line per score; see `rows`."""
        return formats.to_csv(self)

    def to_json(self) -> dict[str, JsonValue]:
        """Everything, ready for JSON; null where there is no number."""
        return formats.to_json(self)

    def rows(self) -> list[dict[str, Cell]]:
        """One dictionary per score.

        Its keys: model, data, benchmark, row, kind, metric, value, half_width, low and high (ends
        of the 95 % interval), n, unscored, p_value, against. Values are as measured, not times 100;
        None where there is no number.
        """
        return formats.to_rows(self)

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
        from factlab.evaluation.reporting.plots import plot_figure  # noqa: PLC0415 - when drawing

        return plot_figure(self, path, name, table)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.md`, `report.csv`, `report.json` and the figures into a folder.

        Returns:
            The files.

        Raises:
            StorageError: one of them cannot be written.
        """
        return formats.save_report(self, folder)
