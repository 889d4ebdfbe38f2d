"""What a sequence says on its way, as it lies on disk."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from factlab.documents import validated
from factlab.evaluation.measuring.rows import Drift, Measurement
from factlab.journal import Journal

CHECKPOINTS = "checkpoints"


class SavedCheckpoint(BaseModel):
    """A line of the journal of checkpoints.

    Attributes:
        drift: of the model then; None if it was not asked for, or the model is broken.
        after: what every record so far says, by case; None if the model is broken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drift: Drift | None
    after: dict[int, Measurement | None]


def load_checkpoints(folder: Path) -> dict[int, SavedCheckpoint]:
    """The checkpoints of a run, by the number of facts; none if it took none.

    Raises:
        StorageError: they are damaged.
    """
    if not (folder / CHECKPOINTS / "run.json").exists():
        return {}
    records = Journal.load(folder / CHECKPOINTS).records
    where = f"'{folder / CHECKPOINTS}'"
    return {
        n: validated(SavedCheckpoint, records[n], f"Checkpoint {n} of {where}", "Run it again.")
        for n in sorted(records)
    }
