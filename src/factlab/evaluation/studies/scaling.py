"""What more facts do: scores against the number of facts, and what becomes of the first ones.

folder/
    memit/n-10/         the first ten facts in one edit
    memit/n-1000/       all, in turns, measured on the way

After figure 5 of the MEMIT paper, and the curves of early edits at the end that papers on
lifelong editing show.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.data.records import Record, References, as_records
from factlab.editing.background import Background
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.studies.configs import ScalingConfig
from factlab.evaluation.studies.forgetting import forgetting_points
from factlab.evaluation.studies.method_specs import StudiedMethod
from factlab.evaluation.studies.points import Point, notes_of
from factlab.evaluation.studies.result import Study
from factlab.evaluation.studies.stations import stations_of
from factlab.evaluation.sweeping.grid import GridCell, evaluate_grid
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard


@checked(in_steps=True)
def study_scaling(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    config: ScalingConfig | None = None,
    references: References | None = None,
    ordinary_text: Sequence[str] = (),
    data_name: str = "records",
    background: Background | None = None,
    batch_size: int = BATCH_SIZE,
    cache: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
    shard: Shard | None = None,
) -> Study:
    """Write more and more facts with several methods, and score them.

    In mode `sequence` one run of the largest number of facts is measured on the way, and a small
    run of its own is made for each number below a turn. Of the facts of each turn it is told how
    they score right after it, later and at the end: what is forgotten.

    What is in the folder already is gone on with, so that a killed study loses nothing.

    Args:
        lm: the model, left as it is.
        records: the first of them are written, in their order.
        out: folder of the study.
        config: which methods and numbers of facts.
        references: see `evaluate`.
        ordinary_text: passages for the perplexity; see `evaluate`.
        data_name: what to call the records.
        background: statistics and contexts that are at hand; points share what is found.
        batch_size: see `evaluate`.
        cache: see `evaluate`.
        should_stop: asked after every block of records, and between edits.
        progress: True for a bar, or a function that is called with runs done and in all.
        shard: do only this part of every run; see `evaluate`.

    Raises:
        InvalidRequestError: there are too few records, a method cannot be used so, or the study was
            stopped before anything was measured.
        EditError: no fact can be written.
        StorageError: the folder belongs to another study, or cannot be written.

    Examples:
        >>> config = fl.evaluation.ScalingConfig(
        ...     methods=["ft:steps=1"], numbers=[1, 2], mode="together",
        ...     measure=fl.evaluation.MeasureConfig(n_generated=0),
        ... )
        >>> study = fl.evaluation.study_scaling(lm, facts, "scaling", config)
        >>> [(row["method"], row["written"]) for row in study.rows()]
        [('ft (steps=1)', 1), ('ft (steps=1)', 2)]
    """
    config = config or ScalingConfig()
    choices, chosen = config.choices(), config.chosen(as_records(records))
    plan: dict[str, list[GridCell]] = {}
    for one, choice in zip(config.methods, choices, strict=True):
        turn = config.turn if choice.method.compute_together is not None else 1
        plan[one.label] = [
            GridCell(
                f"{one.folder}/n-{n}", choice.method, choice.config, chosen[:n],
                turn if config.mode == "sequence" else 1, stops,
            )
            for n, stops in _runs(config, turn)
        ]  # fmt: skip
    grid = evaluate_grid(
        lm, records, out, [cell for cells in plan.values() for cell in cells], config.mode,
        config.measure, background, references, ordinary_text, data_name, batch_size, cache,
        should_stop, progress, shard,
    )  # fmt: skip
    points: list[Point] = []
    for label, cells in plan.items():
        runs = [grid.runs[cell.name] for cell in cells if cell.name in grid.runs]
        points += _points(label, runs)
        if config.mode == "sequence" and len(runs) == len(cells):
            points += forgetting_points(label, runs[-1], chosen, cells[-1].turn)
    return Study.of(
        "scaling", next(iter(grid.runs.values())), _methods(config.methods, config), points,
        notes_of(grid),
    )  # fmt: skip


def _runs(config: ScalingConfig, turn: int) -> list[tuple[int, tuple[int, ...]]]:
    """The runs of a method: of how many facts, and after how many of them to measure.

    Args:
        config: of the study.
        turn: how many facts the method writes in one edit.
    """
    numbers = config.rounded()
    if config.mode == "together":
        return [(n, ()) for n in numbers]
    *smaller, largest = numbers
    on_the_way = tuple(n for n in smaller if n >= turn)
    own = [n for n in smaller if n < turn]
    return [*((n, ()) for n in own), (largest, on_the_way)]


def _points(label: str, runs: Sequence[Run]) -> list[Point]:
    """Scores of all facts that are written so far, by how many they are."""
    found: dict[int, Point] = {}
    for run in runs:
        for station in stations_of(run):
            place = {
                "method": label, "written": station.n, "first": 1, "last": station.n,
                "measured": "all",
            }  # fmt: skip
            found.setdefault(station.n, station.point(place, station.rows))
    return list(found.values())


def _methods(methods: Sequence[StudiedMethod], config: ScalingConfig) -> str:
    labels = ", ".join(one.label for one in methods)
    return labels if config.mode == "together" else f"{labels}, in turns of {config.turn}"
