"""What an evaluation says in a few numbers: S and its parts, each with an interval."""

from collections.abc import Sequence

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.measuring.rows import Row
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS, Stage, score_row, summarise


def score_names(benchmark: Benchmark) -> tuple[str, ...]:
    """Short names of the scores: `score`, then its parts."""
    return (SCORE, *SCORE_PARTS[benchmark])


def columns_of(run: Run) -> tuple[str, ...]:
    """The same of a run's benchmark."""
    return score_names(run.request.data.benchmark)


def estimates_of(run: Run, stage: Stage) -> dict[str, Estimate]:
    """Every one of them over the records that are done, with the edit or without."""
    return estimates_of_rows(run.rows, stage, run.request.data.benchmark, columns_of(run))


def estimates_of_rows(
    rows: Sequence[Row], stage: Stage, benchmark: Benchmark, names: Sequence[str]
) -> dict[str, Estimate]:
    """Some scores over some records at one stage; NaN where no record has one."""
    found = summarise([score_row(row, stage) for row in rows], benchmark)
    return {name: found.metrics[name].estimate for name in names}
