"""A plan of evaluations: the same records with many methods, or one method with many settings.

folder/
    NAME/        the evaluation of the cell of that name
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from factlab.arguments import checked
from factlab.data.records import Record, References
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig, Mode
from factlab.editing.method import Method
from factlab.errors import EditError, InvalidRequestError, WrongModelError, counted
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.scores import SCORE
from factlab.evaluation.sweeping.estimates import estimates_of
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.results import Tabular
from factlab.shards import Shard


@dataclass(frozen=True, slots=True)
class GridCell:
    """One evaluation of a plan.

    Attributes:
        name: of its folder.
        method: that writes the facts.
        config: of the method; None for its defaults.
        records: of this cell alone; None for those of the plan.
        turn: in mode `sequence`, how many facts an edit writes.
        checkpoints: in mode `sequence`, after how many facts to measure all that are written.
    """

    name: str
    method: str | Method
    config: MethodConfig | None = None
    records: tuple[Record | Fact, ...] | None = None
    turn: int = 1
    checkpoints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Grid(Tabular):
    """What came of a plan.

    Attributes:
        runs: of the cells that could be evaluated, by name; of a plan that was stopped, those that
            were begun.
        impossible: why no fact can be written in a cell.
    """

    runs: Mapping[str, Run]
    impossible: Mapping[str, str]

    def __repr__(self) -> str:
        left = sum(run.n_missing for run in self.runs.values())
        return (
            f"Grid({counted(len(self.runs), 'evaluation')}, {counted(left, 'record')} left to do, "
            f"{len(self.impossible)} impossible)"
        )

    def __hash__(self) -> int:
        return hash((*self.runs.values(), *self.impossible))

    @property
    def best(self) -> str:
        """Name of the evaluation with the highest S; of several the first."""
        return max(self.runs, key=partial(_score_of, self.runs))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per evaluation and score.

        Its keys: name, method, score, value, low and high (ends of the 95 % interval), n_records.
        Scores are as measured, not times 100.
        """
        rows: list[dict[str, Any]] = []
        for name, run in self.runs.items():
            for score, estimate in estimates_of(run, "after").items():
                low, high = estimate.interval
                rows.append(
                    {"name": name, "method": run.request.method, "score": score,
                     "value": estimate.mean, "low": low, "high": high, "n_records": len(run.rows)}
                )  # fmt: skip
        return rows


def _score_of(runs: Mapping[str, Run], name: str) -> float:
    score = estimates_of(runs[name], "after")[SCORE].mean
    return -1.0 if math.isnan(score) else score


@checked(in_steps=True)
def evaluate_grid(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    cells: Sequence[GridCell],
    mode: Mode = "each",
    measure: MeasureConfig | None = None,
    background: Background | None = None,
    references: References | None = None,
    ordinary_text: Sequence[str] = (),
    data_name: str = "records",
    batch_size: int = BATCH_SIZE,
    cache: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
    shard: Shard | None = None,
) -> Grid:
    """Evaluate the same records once for each cell of a plan.

    What is in the folder already is gone on with, so that a killed plan loses nothing. A cell in
    which no fact can be written is passed over.

    Args:
        lm: the model, left as it is.
        records: what to edit and ask; a cell may have others.
        out: folder of the plan.
        cells: which methods, with which settings.
        mode: see `evaluate`.
        measure: see `evaluate`.
        background: statistics and contexts that are at hand; cells share what is found.
        references: see `evaluate`.
        ordinary_text: see `evaluate`.
        data_name: what to call the records.
        batch_size: see `evaluate`.
        cache: see `evaluate`.
        should_stop: asked after every block of records.
        progress: True for a bar, or a function that is called with cells done and in all, and
            with what is done inside a cell.
        shard: do only this part of every cell; see `evaluate`.

    Raises:
        InvalidRequestError: there are no cells, two have one name, or as `evaluate`.
        EditError: no fact can be written in any cell.
        StorageError: the folder belongs to another plan, or cannot be written.
    """
    names = [cell.name for cell in cells]
    if not names or len({*names}) < len(names):
        what = f"'{max(names, key=names.count)}' twice" if names else "no cells"
        raise InvalidRequestError(f"The plan has {what}. Give every evaluation a name of its own.")
    background = background or Background()
    runs: dict[str, Run] = {}
    impossible: dict[str, str] = {}
    # Who takes any part goes through all cells before it waits for what others are at.
    for waits in (False, True) if shard is not None and shard.takes_any else (True,):
        for done, cell in enumerate(cells):
            progress("evaluating a plan", done, len(cells))
            try:
                run = evaluate(
                    lm, records if cell.records is None else cell.records, cell.method,
                    Path(out) / cell.name, config=cell.config, mode=mode, turn=cell.turn,
                    measure=_measured(cell, measure), references=references,
                    ordinary_text=ordinary_text, data_name=data_name, background=background,
                    batch_size=batch_size, shard=shard, resume=True, cache=cache, waits=waits,
                    should_stop=should_stop, progress=partial(_inside, progress, cell.name),
                )  # fmt: skip
            except WrongModelError:
                raise
            except EditError as error:
                impossible[cell.name] = str(error)
            else:
                if run.impossible is None:
                    runs[cell.name] = run
                else:
                    impossible[cell.name] = run.impossible
            if should_stop():
                break
    progress("evaluating a plan", len(cells), len(cells))
    if not runs:
        raise EditError(f"Nothing could be evaluated. The first reason: {impossible[names[0]]}")
    return Grid(runs, impossible)


def _inside(progress: ProgressCallback, name: str, label: str, done: int, total: int) -> None:
    """Tell what is done inside a cell."""
    progress(f"{name}: {label}", done, total)


def _measured(cell: GridCell, measure: MeasureConfig | None) -> MeasureConfig | None:
    """What is measured in a cell."""
    if not cell.checkpoints:
        return measure
    return (measure or MeasureConfig()).model_copy(update={"checkpoints": cell.checkpoints})
