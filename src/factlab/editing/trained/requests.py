"""What a person asks a training for; nothing here needs PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from factlab.config import Config
from factlab.data.records import Record
from factlab.data.selection import RecordsRequest
from factlab.data.split import TEST_SHARE, VALIDATION_SHARE, check_shares
from factlab.editing.trained.configs import (
    KINDS,
    NetworkConfig,
    TrainConfig,
)
from factlab.errors import InvalidRequestError, nearest
from factlab.progress import ProgressCallback, silent
from factlab.settings import made_of
from factlab.stats.configs import TextSource


class TrainRequest(Config):
    """Which editor to train, and on what.

    Attributes:
        kind: of editor.
        records: to learn from; None to learn from text.
        source: of ordinary text, which is learned from or must stay; by default the model writes
            its own.
        passages: of text to take.
        keep_out: records whose subjects are kept for evaluation too.
        seed: of the split, and where they say nothing else, of network and training.
        validation_share: part of the subjects (of the passages) for validation.
        test_share: part of the subjects that is kept for evaluation.
        network: size and beginning of the network; settings of the kind, if they come as a table.
        config: of the training.
    """

    kind: str = "mend"
    records: RecordsRequest | None = RecordsRequest()
    source: TextSource = TextSource()
    passages: int = 600
    keep_out: tuple[RecordsRequest, ...] = ()
    seed: int = Field(default=0, ge=0)
    validation_share: float = VALIDATION_SHARE
    test_share: float = TEST_SHARE
    network: NetworkConfig
    config: TrainConfig = TrainConfig()

    @classmethod
    def of_settings(cls, kind: str, settings: Mapping[str, Any], **values: Any) -> "TrainRequest":
        """A request with settings of the training, and of the network in a table `network`.

        Args:
            kind: of editor.
            settings: by name.
            values: what else is asked for; see the class.

        Raises:
            InvalidRequestError: there is no such kind, or a setting is unknown or not allowed.
        """
        if kind not in KINDS:
            raise InvalidRequestError(
                f"No trained editor is called '{kind}'.{nearest(kind, KINDS)} "
                f"Choose {' or '.join(KINDS)}."
            )
        wanted = {"seed": values.get("seed", 0)}
        of_training, of_network = dict(settings), settings.get("network", {})
        of_training.pop("network", None)
        if not isinstance(of_network, Mapping):
            raise InvalidRequestError("'network' in the settings must be a table: write [network].")
        return made_of(
            cls,
            values
            | {
                "kind": kind,
                "network": made_of(KINDS[kind], {**wanted, **of_network}),
                "config": made_of(TrainConfig, {**wanted, **of_training}),
            },
        )

    @model_validator(mode="after")
    def _consistent(self) -> "TrainRequest":
        check_shares(self.validation_share, self.test_share)
        if self.validation_share == 0:
            raise InvalidRequestError("--validation-share 0 leaves nothing to tell when to stop.")
        if self.records is None and self.keep_out:
            raise InvalidRequestError("--keep-out goes with records; text has no subjects.")
        if self.passages < 1:
            raise InvalidRequestError(f"--passages cannot be {self.passages}: at least 1.")
        return self


@dataclass(frozen=True, slots=True)
class TrainMaterial:
    """What a request asks for, read from the disk.

    Attributes:
        records: to learn from; None for text.
        kept_out: subjects that are not looked at.
    """

    records: list[Record] | None
    kept_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: TrainRequest, progress: ProgressCallback = silent) -> "TrainMaterial":
        """Read what a request asks for; text is read later, since a model has to tokenise it.

        Raises:
            InvalidRequestError: there is no such data set.
            StorageError: something cannot be read.
        """
        request.source.check()
        if request.records is None:
            return cls(None)
        records = request.records.load(progress)
        kept_out = [one.fact.topic for each in request.keep_out for one in each.load(progress)]
        return cls(records, tuple(kept_out))
