"""What a study is asked for, checked and read before there is a model; no PyTorch here."""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.data.records import Record, References
from factlab.data.selection import RecordsRequest
from factlab.data.shipped import ordinary_passages
from factlab.evaluation.studies.configs import ScalingConfig, StudyConfig
from factlab.progress import ProgressCallback, silent


@dataclass(frozen=True, slots=True)
class StudyMaterial:
    """What is read from the disk for a study.

    Attributes:
        records: to edit and ask.
        references: texts to compare written ones with; none where none are written.
        passages: ordinary text, if a drift is to be measured.
    """

    records: Sequence[Record]
    references: References
    passages: tuple[str, ...]

    @classmethod
    def of(
        cls, config: StudyConfig, wanted: RecordsRequest, progress: ProgressCallback = silent
    ) -> "StudyMaterial":
        """Read it, and see that the study can be made of it.

        Args:
            config: of the study.
            wanted: which records.
            progress: called while a file is downloaded.

        Raises:
            InvalidRequestError: there is no such method, setting, data set or relation, or there
                are too few records.
            StorageError: something cannot be read.
        """
        if isinstance(config, ScalingConfig):
            config.choices()
        else:
            config.choice()
        records = wanted.load(progress)
        config.chosen(records)
        writes = config.measure.n_generated != 0
        return cls(
            records,
            wanted.load_references(progress) if writes else {},
            ordinary_passages() if config.measure.drift_tokens else (),
        )
