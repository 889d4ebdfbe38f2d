"""What an evaluation measures; nothing here needs PyTorch."""

from typing import ClassVar

from pydantic import Field

from factlab.config import Config
from factlab.words import CountList


class MeasureConfig(Config):
    """What to measure besides the likelihood of targets.

    Attributes:
        n_generated: for how many records, the first ones, to generate texts; None for all.
        text_tokens: length of a generated text, its prompt included.
        top_k: sample among this many most probable tokens.
        seed: of the generated texts.
        essence: whether to measure how probable reference texts about the subject stay.
        drift_tokens: of ordinary text on which to compare the edited with the unedited model.
        checkpoints: in a sequence, after how many facts to ask all records so far, and to measure
            the drift; one inside a turn is taken at its end.
        chat: whether to ask every prompt in the model's chat template as well.
    """

    added: ClassVar[frozenset[str]] = frozenset({"chat"})

    n_generated: int | None = Field(default=None, ge=0)
    text_tokens: int = Field(default=100, ge=2)
    top_k: int = Field(default=5, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    essence: bool = False
    drift_tokens: int = Field(default=0, ge=0)
    checkpoints: CountList = ()
    chat: bool = False
