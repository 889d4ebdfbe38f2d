"""Which layers to edit, and how many: so many up to a top one, all facts in one edit.

folder/
    layers-03-05/       the evaluation of these layers
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.data.records import Record, References, as_records
from factlab.editing.background import Background
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.studies.configs import LayersConfig
from factlab.evaluation.studies.points import notes_of, point_of
from factlab.evaluation.studies.result import Study
from factlab.evaluation.sweeping.grid import GridCell, evaluate_grid
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard


@checked(in_steps=True)
def study_layers(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    config: LayersConfig | None = None,
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
    """Write the same facts in one edit of one, two or more layers, at several heights.

    What is in the folder already is gone on with, so that a killed study loses nothing.

    Args:
        lm: the model, left as it is.
        records: the first of them are written.
        out: folder of the study.
        config: which layers and how many facts, with which method.
        references: see `evaluate`.
        ordinary_text: see `evaluate`.
        data_name: what to call the records.
        background: statistics and contexts that are at hand; points share what is found.
        batch_size: see `evaluate`.
        cache: see `evaluate`.
        should_stop: asked after every block of records.
        progress: True for a bar, or a function that is called with points done and in all.
        shard: do only this part of every run; see `evaluate`.

    Raises:
        InvalidRequestError: the method does not edit several layers, a layer is not in the model,
            there are too few records, or it was stopped before anything was measured.
        EditError: no fact can be written.
        StorageError: the folder belongs to another study, or cannot be written.

    Examples:
        >>> config = fl.evaluation.LayersConfig(
        ...     counts=[1, 2], tops=[1], n_facts=2,
        ...     method={"name": "memit", "settings": {"value": {"steps": 1}}},
        ... )
        >>> study = fl.evaluation.study_layers(lm, facts, "layers", config)
        >>> [(row["top"], row["count"]) for row in study.rows()]
        [(1, 1), (1, 2)]
    """
    config = config or LayersConfig()
    choice, chosen = config.choice(), config.chosen(as_records(records))
    places = config.cells(lm.n_layers)
    for top, _ in places:
        lm.layer(top)
    background = background or Background()
    needs = choice.config.needs
    if needs.stats is not None:
        layers = sorted({one for place in places for one in _layers(*place)})
        background.second_moments(lm, layers, needs.stats, progress)
    plan = {
        place: GridCell(
            f"layers-{_layers(*place)[0]:02d}-{place[0]:02d}",
            choice.method,
            choice.config.model_copy(update={"layers": _layers(*place)}),
            records=chosen,
        )
        for place in places
    }
    grid = evaluate_grid(
        lm, records, out, [*plan.values()], "together", config.measure, background, references,
        ordinary_text, data_name, batch_size, cache, should_stop, progress, shard,
    )  # fmt: skip
    points = [
        point_of(run, {"top": top, "count": count})
        for (top, count), cell in plan.items()
        if (run := grid.runs.get(cell.name)) is not None and run.rows
    ]
    return Study.of(
        "layers", next(iter(grid.runs.values())), choice.method.name, points, notes_of(grid)
    )


def _layers(top: int, count: int) -> tuple[int, ...]:
    return tuple(range(top - count + 1, top + 1))
