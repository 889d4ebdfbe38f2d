"""The causal trace that the scores of a sweep are put beside: of well-known facts."""

from pathlib import Path
from typing import NamedTuple

from factlab.arguments import checked
from factlab.data.well_known import WELL_KNOWN
from factlab.journal import Journal
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard
from factlab.tracing.average import AverageTrace
from factlab.tracing.average_run import average_trace
from factlab.tracing.configs import TraceConfig
from factlab.tracing.knowns import knows

# Each takes as long as editing a fact at several places.
MOST_TRACED = 10


class TracePlan(NamedTuple):
    """How many well-known facts to trace.

    Attributes:
        limit: at most so many; None for all that the model knows.
        n_facts: how many that are, of those that the model knows.
    """

    limit: int | None
    n_facts: int

    @classmethod
    def of(cls, lm: LanguageModel, folder: Path, asked: int | None, n_records: int) -> "TracePlan":
        """As many as are asked for.

        Args:
            lm: the model.
            folder: of the trace.
            asked: how many are wanted; None for as many as a trace in the folder was begun with, or
                else as there are records, up to `MOST_TRACED`.
            n_records: of the sweep.
        """
        n_known = sum(knows(lm, WELL_KNOWN))
        limit: int | None = min(n_records, MOST_TRACED) if asked is None else asked
        if asked is None and (folder / "run.json").exists():
            begun_with = Journal.load(folder).request.get("limit")
            limit = begun_with if isinstance(begun_with, int) else None
        return cls(limit, n_known if limit is None else min(limit, n_known))


@checked()
def trace_beside(
    lm: LanguageModel,
    folder: str | Path,
    limit: int | None,
    progress: ProgressCallback = silent,
    shard: Shard | None = None,
) -> AverageTrace:
    """Trace the MLPs of well-known facts, and write the average with its figures into a folder.

    Args:
        lm: the model, left as it is.
        folder: new, empty, or of this trace, which is gone on with.
        limit: trace so many of those that the model knows; None for all.
        progress: True for a bar, or a function that is called with facts done and in all.
        shard: trace only this part of them.

    Raises:
        InvalidRequestError: the model knows none of the facts.
        StorageError: the folder belongs to another trace, or cannot be written.
    """
    config = TraceConfig(kinds=("mlp",))
    average = average_trace(
        lm, WELL_KNOWN, config, folder, limit, shard, resume=True, progress=progress
    )
    average.save(folder)
    return average
