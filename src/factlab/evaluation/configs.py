"""What an evaluation measures; nothing here needs PyTorch."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveInt

from factlab.config import Config
from factlab.documents import JsonValue
from factlab.errors import InvalidRequestError, nearest
from factlab.words import CountList

# How a model is asked for an answer in its own words.
AnswerForm = Literal["bare", "qa", "chat"]
ANSWER_FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)


def _forms(value: object) -> object:
    """Forms as a list or as a person writes them, each once and in their own order."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if not isinstance(value, list | tuple):
        return value
    unknown = [name for name in value if name not in ANSWER_FORMS]
    if unknown:
        raise InvalidRequestError(
            f"answers: '{unknown[0]}' is none of {', '.join(ANSWER_FORMS)}."
            f"{nearest(str(unknown[0]), ANSWER_FORMS)}"
        )
    return tuple(form for form in ANSWER_FORMS if form in value)


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
        answers: in which forms to have the model answer in its own words: `bare`, the prompts and
            questions as they are; `qa`, the questions between "Q:" and "A:"; `chat`, the questions
            through the model's own chat template. None by default.
        answer_tokens: most tokens of such an answer, which ends with its first sentence or line.
        ripple: whether to ask the records' ripple queries.
        ripple_per_axis: most ripple queries of one axis that a record is asked; of more, the seed
            draws.
        chat: whether to ask every prompt in the model's chat template as well.
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {"answers", "answer_tokens", "ripple", "ripple_per_axis", "chat"}
    )

    n_generated: int | None = Field(default=None, ge=0)
    text_tokens: int = Field(default=100, ge=2)
    top_k: int = Field(default=5, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    essence: bool = False
    drift_tokens: int = Field(default=0, ge=0)
    checkpoints: CountList = ()
    answers: Annotated[tuple[AnswerForm, ...], BeforeValidator(_forms)] = ()
    answer_tokens: int = Field(default=50, ge=1)
    ripple: bool = False
    ripple_per_axis: PositiveInt = 3
    chat: bool = False

    def of_unedited(self) -> dict[str, JsonValue]:
        """What decides what is measured of one record on the unedited model."""
        return self.model_dump(mode="json", exclude={"n_generated"})
