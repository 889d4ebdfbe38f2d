"""Two relations mixed, beside each of them alone (MEMIT paper, figure 7).

folder/
    P19-30/         the evaluation of so many facts of a relation
    P19+P27-30/     of as many, half of them of either
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.data.records import Record, References, as_records
from factlab.editing.background import Background
from factlab.estimate import Estimate
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.studies.configs import MixtureConfig
from factlab.evaluation.studies.points import Point, Scores, folder_name, notes_of, point_of
from factlab.evaluation.studies.result import Study
from factlab.evaluation.sweeping.grid import Grid, GridCell, evaluate_grid
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard

Pair = tuple[str, str]


@checked(in_steps=True)
def study_mixture(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    config: MixtureConfig | None = None,
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
    """Write n facts of two relations mixed, and n of each alone; compare with the mean of these.

    What is in the folder already is gone on with, so that a killed study loses nothing.

    Args:
        lm: the model, left as it is.
        records: with their relations.
        out: folder of the study.
        config: which pairs and numbers of facts, with which method.
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
        For each pair and number: the mixture, each alone, and the mean of these two.

    Raises:
        InvalidRequestError: see `MixtureConfig.chosen`; the method writes one fact at a
            time; or it was stopped before anything was measured.
        EditError: no fact can be written.
        StorageError: the folder belongs to another study, or cannot be written.

    Examples:
        >>> records = fl.load_records("builtin", limit=150)
        >>> config = fl.evaluation.MixtureConfig(
        ...     pairs="P19:P20", numbers=[2], method={"name": "ft", "settings": {"steps": 1}}
        ... )
        >>> study = fl.evaluation.study_mixture(lm, records, "mixture", config)
        >>> [row["of"] for row in study.rows()]
        ['P19', 'P20', 'mixture', 'mean']
    """
    config = config or MixtureConfig()
    choice, chosen = config.choice(), config.chosen(as_records(records))
    plan: dict[str, GridCell] = {}
    for pair, own in chosen.items():
        for n in config.numbers:
            for name, part in _parts(pair, own, n):
                plan[name] = GridCell(name, choice.method, choice.config, records=part)
    grid = evaluate_grid(
        lm, records, out, [*plan.values()], "together", config.measure, background, references,
        ordinary_text, data_name, batch_size, cache, should_stop, progress, shard,
    )  # fmt: skip
    points = [point for pair in chosen for n in config.numbers for point in _points(grid, pair, n)]
    return Study.of(
        "mixture", next(iter(grid.runs.values())), choice.method.name, points, notes_of(grid)
    )


def mean_of_two(one: Estimate, other: Estimate) -> Estimate:
    """The mean of two independent estimates; half its interval is ½√(a² + b²) of theirs."""
    half = math.hypot(one.half_width, other.half_width) / 2
    return Estimate((one.mean + other.mean) / 2, half)


def _parts(pair: Pair, own: Sequence[Record], n: int) -> Iterator[tuple[str, tuple[Record, ...]]]:
    """The folder and records of each point: either relation alone, and both mixed.

    Args:
        pair: of relations.
        own: as many records of the first as of the second, the first relation's first.
        n: how many facts.
    """
    half = len(own) // 2
    firsts, seconds = own[:half], own[half:]
    yield _name(pair[0], n), tuple(firsts[:n])
    yield _name(pair[1], n), tuple(seconds[:n])
    both = [record for two in zip(firsts, seconds, strict=True) for record in two]
    yield _name("+".join(pair), n), tuple(both[:n])


def _name(of: str, n: int) -> str:
    return f"{folder_name(of)}-{n}"


def _points(grid: Grid, pair: Pair, n: int) -> Iterator[Point]:
    """The points of a pair that have been measured."""
    found: dict[str, Point] = {}
    for of, name in ((pair[0], pair[0]), (pair[1], pair[1]), ("mixture", "+".join(pair))):
        run = grid.runs.get(_name(name, n))
        if run is not None and run.rows:
            found[of] = point_of(run, {"pair": ":".join(pair), "of": of, "facts": n})
    yield from found.values()
    one, other = (found.get(relation) for relation in pair)
    if one is not None and other is not None:
        yield Point(
            {"pair": ":".join(pair), "of": "mean", "facts": n},
            one.n + other.n,
            _means(one.scores, other.scores),
            _means(one.unedited, other.unedited),
        )


def _means(one: Scores, other: Scores) -> Scores:
    return {name: mean_of_two(estimate, other[name]) for name, estimate in one.items()}
