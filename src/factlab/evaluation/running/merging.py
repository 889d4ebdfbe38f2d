"""The shards of an evaluation, which ran in different folders, as one run."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from factlab.errors import StorageError
from factlab.evaluation.measuring.verdicts import JUDGE, Verdicts
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.journal import Journal, merge
from factlab.shards import Shard


def merge_runs(folders: Sequence[Path], out: Path) -> Run:
    """Put the rows of shards of one run together in a new folder, and what a judge said of them.

    Args:
        folders: of the shards.
        out: new or empty; or of parts of the same run, which those that are new are added to.

    Returns:
        The whole run.

    Raises:
        InvalidRequestError: there are no folders.
        StorageError: they are not of one run, were judged by different judges, or one is damaged;
            or `out` cannot be made.
    """
    for folder in folders:
        load_run(folder)
    judged = [
        Journal.load(folder / JUDGE)
        for folder in (*folders, out)
        if (folder / JUDGE / "run.json").exists()
    ]
    for journal in judged[1:]:
        if journal.request != judged[0].request:
            raise StorageError(
                f"'{journal.folder}' and '{judged[0].folder}' hold verdicts of different judges, "
                "which do not mix. Move or delete those of one."
            )
    merge(folders, out)
    if judged:
        _write_verdicts(judged, out / JUDGE)
    return load_run(out)


def _write_verdicts(judged: Sequence[Journal], folder: Path) -> None:
    """Each answer's verdict once, one with a result before one that says why there is none."""
    every = chain.from_iterable(Verdicts.of(journal).by_key.values() for journal in judged)
    told = {one.key: one for one in sorted(every, key=lambda one: one.right is not None)}
    whole = Journal.create(folder, judged[0].request, judged[0].findings)
    with whole.writing(Shard()) as writer:
        writer.replace(
            {number: one.model_dump(mode="json") for number, one in enumerate(told.values())}
        )
