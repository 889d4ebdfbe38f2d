"""Rows into a journal: what is missing, what has come, how far it is, and when to give up.

A block that a kill cut short is done again as a whole, so that a run that was killed ends with the
same numbers as one that was not.
"""

import secrets
from collections.abc import Callable, Sequence

from factlab.editing.edit import current_versions
from factlab.errors import EditError
from factlab.evaluation.measuring.rows import Row
from factlab.evaluation.running.planning import Plan
from factlab.evaluation.running.worker import Worker, unwritten
from factlab.journal import Journal, Writer
from factlab.progress import ProgressCallback
from factlab.shards import Shard

# If no fact of so many can be written, none will be.
_TRIED = 32


class Collector:
    """Takes the rows of blocks, in whatever order they come.

    Args:
        journal: of the run.
        writer: appends to it.
        blocks: that the rows will be of; those that are in the journal already are not missing.

    Attributes:
        missing: the blocks in which a row is missing.
        n_cases: of all blocks.
    """

    def __init__(self, journal: Journal, writer: Writer, blocks: Sequence[Sequence[int]]) -> None:
        self._journal, self._writer, self._blocks = journal, writer, blocks
        self._unwritten: list[str] = []
        self.missing = [
            block for block in blocks if any(case not in journal.records for case in block)
        ]
        self.n_cases = sum(map(len, blocks))

    @property
    def n_done(self) -> int:
        """Cases whose rows are in the journal."""
        return sum(case in self._journal.records for block in self._blocks for case in block)

    def take(self, block: Sequence[int], rows: Sequence[Row]) -> None:
        """Put the rows of a block on the disk; those that are there stay as they are.

        Raises:
            EditError: so far no fact could be written; what was found out stays in the journal.
            StorageError: a row cannot be written.
        """
        for case, row in zip(block, rows, strict=True):
            self._unwritten.append(unwritten(row))
            if case not in self._journal.records:
                self._writer.append(case, row.model_dump(mode="json"))
        n_tried = len(self._unwritten)
        n_to_do = sum(map(len, self.missing))
        if n_tried >= min(_TRIED, n_to_do) and all(self._unwritten):
            which = "No fact" if n_tried == n_to_do else f"None of the first {n_tried} facts"
            raise EditError(f"{which} could be written. The first: {self._unwritten[0]}")


def collect(
    plan: Plan,
    shard: Shard,
    worker: Worker,
    journal: Journal,
    waits: bool,
    should_stop: Callable[[], bool],
    progress: ProgressCallback,
) -> None:
    """Have a worker do what is missing of a shard, and put it into the journal.

    Args:
        plan: of the run.
        shard: which part of it.
        worker: does the blocks, one after the other.
        journal: of the run.
        waits: whether to stay until what other processes are at is done.
        should_stop: asked after every block; what was done stays in the journal.
        progress: called with records done and in all.

    Raises:
        EditError: no fact can be written, or all together cannot.
        ModelLoadError: the model's own probabilities are NaN or infinite.
        StorageError: another process is at the same part, or a file cannot be written.
    """
    with journal.writing(shard, current_versions()) as writer:
        blocks = plan.blocks(shard)
        collector = Collector(journal, writer, blocks)
        label = f"evaluating {plan.request['method']}"

        def tell() -> None:
            progress(label, collector.n_done, collector.n_cases)

        to_do = writer.to_do(blocks, should_stop, tell, waits)
        if not collector.missing:
            return
        # Where each record has a model of its own, the unedited one is at hand for every block.
        as_it_goes = shard.takes_any and plan.request["mode"] == "each"
        if not as_it_goes and not _measured(collector, shard, worker, should_stop, progress):
            return
        with worker:
            if not worker.prepare(progress):
                return
            tell()
            for block in to_do:
                if as_it_goes:
                    worker.measure_unedited(block)
                collector.take(block, worker.rows(block))
                tell()
                if should_stop():
                    return


def _measured(
    collector: Collector,
    shard: Shard,
    worker: Worker,
    should_stop: Callable[[], bool],
    progress: ProgressCallback,
) -> bool:
    """Measure what is missing on the model as it is; whether that was finished.

    Processes that take any part of a run need all of it, and find in the cache what another has
    measured meanwhile; so each begins somewhere else.
    """
    label, done, total = "measuring the unedited model", 0, collector.n_cases
    first = secrets.randbelow(len(collector.missing)) if shard.takes_any else 0
    for block in [*collector.missing[first:], *collector.missing[:first]]:
        progress(label, done, total)
        worker.measure_unedited(block)
        done += len(block)
        if should_stop():
            return False
    progress(label, total, total)
    return True
