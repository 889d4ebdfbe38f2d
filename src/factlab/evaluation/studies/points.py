"""`Point`: one line of a study, and how it comes of a run."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.scores import METRICS
from factlab.evaluation.sweeping.estimates import columns_of, estimates_of_rows
from factlab.evaluation.sweeping.grid import Grid

Place = Mapping[str, str | int]
Scores = Mapping[str, Estimate]

# Scores that are shown where they were measured.
_BESIDE = ("entropy_bits", "consistency", "essence", "perplexity", "drift_kl_nats")


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one place of a study.

    Attributes:
        place: what was varied, such as the relation; every point of a study has the same names.
        n: records that were measured.
        scores: by name, as measured; NaN where there is none.
        unedited: the same records on the unedited model.
    """

    place: Place
    n: int
    scores: Scores
    unedited: Scores


def point_of(run: Run, place: Place) -> Point:
    """The point of a run, finished or not."""
    benchmark, names = run.request.data.benchmark, every_score(run)
    return Point(
        place,
        len(run.rows),
        estimates_of_rows(run.rows, "after", benchmark, names),
        estimates_of_rows(run.rows, "before", benchmark, names),
    )


def every_score(run: Run) -> tuple[str, ...]:
    """Names of all scores that a study may show: S, its parts, then those of texts and damage."""
    metrics = METRICS[run.request.data.benchmark]
    return (*columns_of(run), *(name for name in _BESIDE if name in metrics))


def measured_columns(points: Sequence[Point]) -> tuple[str, ...]:
    """Names of the scores that any of some points has."""
    return tuple(
        name
        for name in points[0].scores
        if any(not math.isnan(point.scores[name].mean) for point in points)
    )


def notes_of(grid: Grid) -> Iterator[str]:
    """What a reader must know of the runs of a plan: what is missing, failed or impossible."""
    for name, run in grid.runs.items():
        if run.n_missing:
            yield f"{name}: unfinished, {len(run.rows)} of {run.n_cases} records so far."
        if run.n_unusable:
            unusable = counted(run.n_unusable, "more record")
            yield f"{name}: {unusable} cannot be asked of this model."
        if run.failed:
            first = run.failed[0]
            yield (
                f"{name}: {len(run.failed)} of {len(run.rows)} edits failed, the first for case "
                f"{first.case_id}: {first.failed}"
            )
    for name, reason in grid.impossible.items():
        yield f"{name}: {reason}"


def folder_name(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^\w.+-]+", "-", text)
