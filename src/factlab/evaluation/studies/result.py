"""`Study`: what many evaluations say together, in one table and one picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.data.records import Benchmark
from factlab.documents import parse_json, validated
from factlab.errors import InvalidRequestError, StorageError, counted
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.studies import tables
from factlab.evaluation.studies.configs import StudyKind
from factlab.evaluation.studies.document import ADVICE, StudyDocument
from factlab.evaluation.studies.points import Point, measured_columns
from factlab.results import Drawn, Tabular, known
from factlab.storage import read_text, write_json, write_text

if TYPE_CHECKING:
    from factlab.figures import Picture


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Study(Tabular, Drawn):
    """Scores of many evaluations of one model, that differ in what the study varies.

    `print(study)` shows its table; a notebook shows its picture.

    Attributes:
        kind: `relations`, `mixture`, `layers` or `scaling`.
        model: that was edited.
        dtype: of its weights.
        data: what the records are called.
        benchmark: which they are of.
        method: that wrote the facts, or all of them with commas between.
        mode: `together` or `sequence`.
        points: at least one, in the order of the table.
        notes: what is missing, failed or impossible, in sentences.
    """

    kind: StudyKind
    model: str
    dtype: str
    data: str
    benchmark: Benchmark
    method: str
    mode: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        kind: StudyKind,
        run: Run,
        method: str,
        points: Sequence[Point],
        notes: Iterable[str],
    ) -> "Study":
        """A study whose runs are like this one in model, data and mode.

        Raises:
            InvalidRequestError: nothing has been measured yet.
        """
        if not points:
            raise InvalidRequestError("The study was stopped before anything was measured.")
        request = run.request
        return cls(
            kind, request.model.name, request.model.dtype.removeprefix("torch."),
            request.data.name, request.data.benchmark, method, request.mode,
            tuple(points), tuple(notes),
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """Read a study that was saved.

        Args:
            path: its JSON file, such as `out/relations.json`.

        Raises:
            StorageError: it is missing, damaged or something else.
        """
        path = Path(path)
        if path.is_dir():
            raise StorageError(
                f"'{path}' is a folder. Give the JSON file of the study in it, such as "
                f"'{path / 'relations.json'}'."
            )
        where = f"'{path}'"
        found = validated(StudyDocument, parse_json(read_text(path), where), where, ADVICE)
        return cls(
            found.kind, found.model, found.dtype, found.data, found.benchmark, found.method,
            found.mode, tuple(point.point() for point in found.points), found.notes,
        )  # fmt: skip

    def __repr__(self) -> str:
        return "\n".join(
            [f"Study({self.kind}: {self.model} on {self.data}, {self.method}, "
             f"{counted(len(self.points), 'point')}), to be printed, plotted or saved:",
             *(f"  {line}" for line in tables.summary(self))]
        )  # fmt: skip

    def __str__(self) -> str:
        return tables.to_text(self)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same."""
        if not isinstance(other, Study):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.kind, self.model, self.data, self.method, len(self.points)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores that were measured: `score`, its parts, and those beside them."""
        return measured_columns(self.points)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per point.

        Its keys: what was varied; n (records measured); and for each score NAME, NAME_low and
        NAME_high (ends of the 95 % interval) and NAME_unedited. As measured, not times 100; None
        where there is no number.
        """
        return [
            {**point.place, "n": point.n}
            | {
                f"{name}{ending}": known(value)
                for name in self.columns
                for ending, value in (
                    ("", point.scores[name].mean),
                    ("_low", point.scores[name].interval[0]),
                    ("_high", point.scores[name].interval[1]),
                    ("_unedited", point.unedited[name].mean),
                )
            }
            for point in self.points
        ]

    def table(self) -> list[dict[str, str]]:
        """The table as it is shown: one dictionary per line, its cells by their headings."""
        return [
            dict(zip(part.heads, line, strict=True))
            for part in tables.parts(self)
            for line in part.lines
        ]

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw the study's picture.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.evaluation.studies.plot import plot_study  # noqa: PLC0415 - when drawing only

        return plot_study(self, path)

    def to_markdown(self) -> str:
        """The table as Markdown, with what its columns mean."""
        return tables.to_markdown(self)

    def to_csv(self) -> str:
        """`rows`, with a line for their keys."""
        return tables.to_csv(self.rows())

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; null where there is no number."""
        return StudyDocument.of(self).model_dump(mode="json")

    def save(self, folder: str | Path) -> list[Path]:
        """Write the picture and the table: `KIND.png`, `KIND.md`, `KIND.csv` and `KIND.json`.

        Returns:
            The files.

        Raises:
            StorageError: one of them cannot be written.
        """
        stem = Path(folder) / self.kind
        files = [stem.with_suffix(ending) for ending in (".png", ".md", ".csv", ".json")]
        self.plot(files[0])
        write_text(files[1], self.to_markdown())
        write_text(files[2], self.to_csv())
        write_json(files[3], self.to_json())
        return files
