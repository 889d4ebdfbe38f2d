"""Where a sequence was measured: on the way, and at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.measuring.generated_text import perplexity
from factlab.evaluation.measuring.rows import Drift, Row
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.scores import Stage
from factlab.evaluation.studies.points import Place, Point, Scores, every_score
from factlab.evaluation.sweeping.estimates import estimates_of_rows


@dataclass(frozen=True, slots=True)
class Station:
    """All facts that are written so far, measured on the model as it is then.

    Attributes:
        n: facts written.
        rows: of their records; `after` was measured then.
        benchmark: of the records.
        names: of the scores to work out.
        drift: of the model on ordinary text, where the rows do not say it.
    """

    n: int
    rows: tuple[Row, ...]
    benchmark: Benchmark
    names: tuple[str, ...]
    drift: Drift | None = None

    def point(self, place: Place, rows: Sequence[Row], stage: Stage = "after") -> Point:
        """The scores of some of the rows.

        Args:
            place: of the point.
            rows: which.
            stage: `right_after` for what they said after their own edit.
        """
        after, before = (
            estimates_of_rows(rows, each, self.benchmark, self.names) for each in (stage, "before")
        )
        if self.drift is not None and stage == "after":
            after["drift_kl_nats"] = Estimate(self.drift.kl, math.nan)
            after["perplexity"] = Estimate(perplexity(self.drift.nll), math.nan)
        return Point(place, len(rows), _of_the_model(after), _of_the_model(before))


def stations_of(run: Run) -> list[Station]:
    """Where a run was measured, ascending; the end only if it was reached."""
    benchmark, names = run.request.data.benchmark, every_score(run)
    found = [Station(one.n, one.rows, benchmark, names, one.drift) for one in run.checkpoints]
    if run.rows and not run.n_missing:
        found.append(Station(run.n_cases, run.rows, benchmark, names))
    return found


def _of_the_model(scores: Scores) -> dict[str, Estimate]:
    """Scores where those of the model, the same for every record, have no interval."""
    return {
        name: Estimate(estimate.mean, math.nan) if name in _MODELS_OWN else estimate
        for name, estimate in scores.items()
    }


_MODELS_OWN = frozenset({"perplexity", "drift_kl_nats"})
