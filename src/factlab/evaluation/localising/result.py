"""`Localisation`: the study as it lies in its folder, its rows, and the regressions on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError

from factlab.documents import check_format, described, validated
from factlab.editing.variants import Variant
from factlab.errors import InvalidRequestError, StorageError, counted
from factlab.evaluation.localising.configs import LocalisationConfig
from factlab.evaluation.localising.exceptions import Exceptions
from factlab.evaluation.localising.explained import Explained, explained, robustness
from factlab.evaluation.localising.plan import Grid
from factlab.evaluation.localising.rows import (
    EditRow,
    FactRow,
    StudyFindings,
    StudyRequest,
    as_line,
    row_of,
)
from factlab.evaluation.scoring.problem_scores import PROMPTS, problem_scores
from factlab.journal import Journal
from factlab.results import Drawn, Tabular, known

if TYPE_CHECKING:
    from factlab.figures import Picture

FORMAT = "factlab localisation 1"
FigureName = Literal["effects", "peaks", "scatter", "scores", "r2"]
FIGURES: tuple[FigureName, ...] = get_args(FigureName)
_ADVICE = "Run the study again in a new folder."


@dataclass(frozen=True, repr=False)
class Localisation(Tabular, Drawn):
    """Where facts are held and where editing them works, side by side.

    Attributes:
        asked: what was asked for.
        found: what was found out before the first fact was traced.
        layers: that were edited.
        facts: by place, those that have been traced.
        edits: every edit that has been asked.
    """

    asked: StudyRequest
    found: StudyFindings
    layers: tuple[int, ...]
    facts: Mapping[int, FactRow]
    edits: Sequence[EditRow]

    @classmethod
    def load(cls, folder: str | Path) -> "Localisation":
        """Read a study, finished or not.

        Raises:
            StorageError: the folder holds no such study, or is damaged.
        """
        journal, what = Journal.load(Path(folder)), "a study of localisation"
        check_format(journal.request.get("format"), FORMAT, f"'{folder}'", what)
        where = f"'{Path(folder) / 'run.json'}'"
        asked = validated(StudyRequest, journal.request, where, _ADVICE)
        found = validated(StudyFindings, journal.findings, where, _ADVICE)
        grid = Grid.of(asked.config, found.n_layers)
        facts: dict[int, FactRow] = {}
        edits: list[EditRow] = []
        for case in sorted(journal.records):
            try:
                row = row_of(journal.records[case])
            except ValidationError as error:
                raise StorageError(
                    f"Row {case} of '{folder}' is damaged: {described(error)}. {_ADVICE}"
                ) from error
            if isinstance(row, FactRow):
                facts[case // grid.n_rows] = row
            else:
                edits.append(row)
        return cls(asked, found, grid.layers, facts, edits)

    @property
    def config(self) -> LocalisationConfig:
        """What was varied."""
        return self.asked.config

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.found.n_layers

    @property
    def windows(self) -> tuple[int, ...]:
        """Widths of the windows that were traced."""
        return self.config.windows_of(self.n_layers)

    @property
    def n_missing(self) -> int:
        """Rows that are not there yet."""
        n_rows = Grid.of(self.config, self.n_layers).n_rows
        return len(self.found.cases) * n_rows - len(self.facts) - len(self.edits)

    @property
    def n_facts(self) -> int:
        """Facts that have been traced."""
        return len(self.facts)

    @property
    def window(self) -> int:
        """The window of the effect that scores are compared with."""
        return self.config.main_window(self.n_layers)

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels of the methods."""
        return tuple(method.label for method in self.config.methods)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The problems."""
        return self.config.variants

    @property
    def n_failed(self) -> int:
        """Edits that could not be made or asked."""
        return sum(row.failed is not None for row in self.edits)

    def __repr__(self) -> str:
        where = f"{self.asked.model.name} on {self.asked.data.name}"
        size = f"{counted(self.n_facts, 'fact')}, {counted(len(self.edits), 'edit')}"
        return "\n".join(
            [
                f"Localisation({where}: {size}, to be printed, plotted or saved)",
                *(f"  {note}" for note in self.notes),
            ]
        )

    def __hash__(self) -> int:
        return hash((self.asked.model.fingerprint, self.asked.data.sha256, len(self.edits)))

    def _pictures(self) -> "Sequence[Picture]":
        return [self.plot(name=name) for name in FIGURES] if self.edits else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing, failed or was left out, a sentence each."""
        notes: list[str] = []
        if self.n_missing:
            notes.append(f"Unfinished: {counted(self.n_missing, 'row')} to do.")
        if self.n_failed:
            first = next(row for row in self.edits if row.failed is not None)
            notes.append(
                f"{counted(self.n_failed, 'edit')} of {len(self.edits):,} failed, the first "
                f"({first.method}, layer {first.layer}, {first.variant}): {first.failed}"
            )
        if self.found.n_unknown:
            unknown = counted(self.found.n_unknown, "fact")
            notes.append(f"Left out: {unknown} that the model does not know.")
        if self.found.unusable:
            first = next(iter(self.found.unusable.values()))
            n_unusable = counted(len(self.found.unusable), "record")
            notes.append(f"Left out: {n_unusable} that cannot be used, the first: {first}")
        return tuple(notes)

    # -- what comes of it -------------------------------------------------------------------

    @cached_property
    def regressions(self) -> "tuple[Explained, ...]":
        """Of every score, method and problem, on the effects of the main window."""
        return tuple(explained(self))

    @cached_property
    def robustness(self) -> "tuple[Explained, ...]":
        """The rewrite score on other effects, and of facts whose effect is in few layers."""
        return tuple(robustness(self))

    @cached_property
    def exceptions(self) -> Exceptions:
        """The facts that another token than the subject's last decides, and what marks them."""
        return Exceptions.of_study([*self.facts.values()], self.window)

    def explained(self, score: str = "rewrite") -> "list[Explained]":
        """The regressions of one score."""
        return [one for one in self.regressions if one.score == score]

    def plot(self, path: str | Path | None = None, name: FigureName = "r2") -> "Picture":
        """Draw one of the pictures.

        Args:
            path: where to write it too, as .png, .pdf or .svg.
            name: `effects` by layer, `peaks` of each fact, `scatter` of scores against effects,
                `scores` by layer, or `r2` of the regressions.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: there is no such picture, or the file name's ending is none of
                these.
            StorageError: the file cannot be written.
        """
        from factlab.evaluation.localising.pictures import draw_picture  # noqa: PLC0415 - drawing

        return draw_picture(self, name, path)

    def to_markdown(self) -> str:
        """What came out, in words and tables; pictures are named as `save` writes them."""
        from factlab.evaluation.localising.report_page import to_markdown  # noqa: PLC0415 - drawing

        return to_markdown(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the report with its pictures, the rows and the regressions.

        That is `report.md`, `report.html` (with the pictures inside), `effects.png`, `peaks.png`,
        `scatter.png`, `scores.png`, `r2.png`, `rows.csv` and `regressions.csv`.

        Returns:
            The files.

        Raises:
            InvalidRequestError: nothing has been edited yet.
            StorageError: one of them cannot be written.
        """
        from factlab.evaluation.localising.report_page import save_report  # noqa: PLC0415 - drawing

        return save_report(self, Path(folder))

    def to_json(self) -> dict[str, Any]:
        """What was asked for and found, and every row, ready for JSON."""
        return {
            "format": FORMAT,
            "model": self.asked.model.model_dump(mode="json"),
            "data": self.asked.data.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "found": self.found.model_dump(mode="json"),
            "facts": [as_line(fact) for fact in self.facts.values()],
            "rows": self.rows(),
            "regressions": [one.row() for one in (*self.regressions, *self.robustness)],
            "exceptions": self.exceptions.to_json(),
        }

    @cached_property
    def scored(self) -> list[dict[str, Any]]:
        """`rows`, made once; not to be changed."""
        return [*self._score_rows()]

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per edit.

        Its keys: fact (its place), case_id, subject, layer, method, variant, target, effect (in the
        main window) and effect_last (at the subject's last token alone), failed, and the scores,
        each over all prompts and as NAME_first over the first, as published. None where there is no
        number.
        """
        return [dict(row) for row in self.scored]

    def _score_rows(self) -> Iterator[dict[str, Any]]:
        for edit in self.edits:
            fact = self.facts[edit.place]
            row: dict[str, Any] = {
                "fact": edit.place, "case_id": fact.case_id, "subject": fact.subject,
                "layer": edit.layer, "method": edit.method, "variant": edit.variant,
                "target": edit.target,
                "effect": known(fact.effect(self.window, edit.layer)),
                "effect_last": known(fact.effect(self.window, edit.layer, last_subject=True)),
                "failed": edit.failed,
            }  # fmt: skip
            yield row | _scores(edit)

    def values(
        self, method: str, variant: str, score: str = "rewrite"
    ) -> list[tuple[int, int, float]]:
        """Place of the fact, layer and score of every edit of a method for a problem that has one.

        Raises:
            InvalidRequestError: there is no such method, problem or score.
        """
        for name, those in (
            (method, self.methods), (variant, self.variants), (score, SCORE_COLUMNS),
        ):  # fmt: skip
            if name not in those:
                raise InvalidRequestError(
                    f"'{name}' is not in this study. Choose from {', '.join(those)}."
                )
        return [
            (row["fact"], row["layer"], row[score])
            for row in self.scored
            if row["method"] == method and row["variant"] == variant and row[score] is not None
        ]


_NAMES = ("rewrite", "paraphrase", "neighborhood", "essence", "overall", "overall_essence")
SCORE_COLUMNS: tuple[str, ...] = (
    *_NAMES, *(f"{name}_first" for name in _NAMES if name not in {"rewrite", "essence"}),
)  # fmt: skip


def _scores(edit: EditRow) -> dict[str, float | None]:
    """All scores of an edit, by their columns."""
    if edit.before is None or edit.after is None:
        return dict.fromkeys(SCORE_COLUMNS)
    found: dict[str, float | None] = {}
    for prompts in PROMPTS:
        scores = problem_scores(edit.before, edit.after, edit.variant, edit.text_lengths, prompts)
        ending = "_first" if prompts == "first" else ""
        found |= {f"{name}{ending}": known(value) for name, value in scores.items()}
    return {name: found[name] for name in SCORE_COLUMNS}
