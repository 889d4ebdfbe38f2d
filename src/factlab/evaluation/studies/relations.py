"""Which facts are harder to edit: facts of one relation in one edit (MEMIT paper, figure 6).

folder/
    P36/        the evaluation of each relation
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.data.records import Record, References, as_records
from factlab.editing.background import Background
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.scoring.scores import SCORE
from factlab.evaluation.studies.configs import RelationsConfig
from factlab.evaluation.studies.points import Point, folder_name, notes_of, point_of
from factlab.evaluation.studies.result import Study
from factlab.evaluation.sweeping.grid import GridCell, evaluate_grid
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard


@checked(in_steps=True)
def study_relations(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    config: RelationsConfig | None = None,
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
    """Write facts of one relation in one edit and score them, for each relation.

    What is in the folder already is gone on with, so that a killed study loses nothing.

    Args:
        lm: the model, left as it is.
        records: with their relations.
        out: folder of the study.
        config: which relations, with which method.
        references: see `evaluate`.
        ordinary_text: see `evaluate`.
        data_name: what to call the records.
        background: statistics and contexts that are at hand; points share what is found.
        batch_size: see `evaluate`.
        cache: see `evaluate`.
        should_stop: asked after every block of records.
        progress: True for a bar, or a function that is called with points done and in all.
        shard: do only this part of every run; see `evaluate`.

    Returns:
        The relations that were begun, the one with the largest S first.

    Raises:
        InvalidRequestError: see `RelationsConfig.chosen`; the method writes one fact at a
            time; or it was stopped before anything was measured.
        EditError: no fact can be written.
        StorageError: the folder belongs to another study, or cannot be written.

    Examples:
        >>> records = fl.load_records("builtin", limit=200)
        >>> config = fl.evaluation.RelationsConfig(
        ...     relations="P17,P19", per_relation=2, least=2,
        ...     method={"name": "ft", "settings": {"steps": 1}},
        ... )
        >>> study = fl.evaluation.study_relations(lm, records, "relations", config)
        >>> sorted(row["relation"] for row in study.rows())
        ['P17', 'P19']
    """
    config = config or RelationsConfig()
    choice, chosen = config.choice(), config.chosen(as_records(records))
    plan = {
        relation: GridCell(folder_name(relation), choice.method, choice.config, records=own)
        for relation, own in chosen.items()
    }
    grid = evaluate_grid(
        lm, records, out, [*plan.values()], "together", config.measure, background, references,
        ordinary_text, data_name, batch_size, cache, should_stop, progress, shard,
    )  # fmt: skip
    points = [
        point_of(run, {"relation": relation})
        for relation, cell in plan.items()
        if (run := grid.runs.get(cell.name)) is not None and run.rows
    ]
    points.sort(key=_from_best)
    return Study.of(
        "relations", next(iter(grid.runs.values())), choice.method.name, points, notes_of(grid)
    )


def _from_best(point: Point) -> tuple[bool, float]:
    score = point.scores[SCORE].mean
    return math.isnan(score), -score
