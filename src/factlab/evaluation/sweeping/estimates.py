"""What an evaluation says in a few numbers: S and its parts, each with an interval."""

from factlab.estimate import Estimate
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS, Stage, score_row, summarise


def columns_of(run: Run) -> tuple[str, ...]:
    """Short names of the scores: `score`, then its parts."""
    return (SCORE, *SCORE_PARTS[run.request.data.benchmark])


def estimates_of(run: Run, stage: Stage) -> dict[str, Estimate]:
    """Every one of them over the records that are done, with the edit or without."""
    found = summarise([score_row(row, stage) for row in run.rows], run.request.data.benchmark)
    return {name: found.metrics[name].estimate for name in columns_of(run)}
