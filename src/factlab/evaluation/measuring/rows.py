"""What is measured of one record on one model, as it is written to disk.

A run keeps the raw numbers, token by token; every score in a report is computed from them.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

from factlab.data.records import Benchmark

Group = Literal["rewrite", "paraphrase", "neighborhood"]


def _of_a_probability(value: float) -> float:
    # That of 1 may come out a little above 0. Those of a broken model are NaN until they are told.
    if 1e-2 < value < math.inf:
        raise ValueError("a log-probability is at most 0")
    return value


LogProb = Annotated[float, AfterValidator(_of_a_probability)]


class TargetScore(BaseModel):
    """How a model takes a target after a prompt, token by token.

    Attributes:
        logprobs: natural-log probability of each token given the prompt and the tokens before it.
        top: whether each token is the most probable one there. Greedy decoding writes the target
            if and only if all are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    logprobs: Annotated[tuple[LogProb, ...], Field(min_length=1)]
    top: tuple[bool, ...]

    @model_validator(mode="after")
    def _as_many(self) -> "TargetScore":
        if len(self.logprobs) != len(self.top):
            raise ValueError("logprobs and top are not of the same tokens")
        return self


class Asked(BaseModel):
    """A prompt and what was asked of it.

    Attributes:
        new: the new target; None if it is not asked for here.
        true: the true target, or the right answer of an unrelated question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    new: TargetScore | None = None
    true: TargetScore | None = None


class Written(BaseModel):
    """Texts that a model wrote about the subject.

    Attributes:
        texts: prompt and continuation, one per generation prompt.
        entropy: GE: mean over the texts of the weighted entropy of their word n-grams, in bits.
        consistency: RS: cosine between their TF-IDF and that of the references, 0–1; None if
            there are no references.
        no_consistency: why there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: tuple[str, ...]
    entropy: float
    consistency: float | None = None
    no_consistency: str = ""


class Drift(BaseModel):
    """How far a model is from the unedited one on ordinary text.

    Attributes:
        kl: mean KL divergence of the next-token distributions, unedited ‖ this one, nats per token.
        nll: mean negative log-probability of the text, nats per token; perplexity is exp(nll).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kl: float
    nll: float

    @property
    def is_finite(self) -> bool:
        """Whether neither is NaN or infinite, as they are of a broken model."""
        return math.isfinite(self.kl) and math.isfinite(self.nll)


class InChat(BaseModel):
    """One record's prompts in the model's chat template, in the same order.

    Attributes:
        rewrite: the rewriting prompt.
        paraphrase: the paraphrases.
        neighborhood: the prompts about other subjects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rewrite: tuple[Asked, ...]
    paraphrase: tuple[Asked, ...]
    neighborhood: tuple[Asked, ...]


class Measurement(BaseModel):
    """One record on one model.

    Attributes:
        rewrite: the rewriting prompt.
        paraphrase: the paraphrases, in the record's order.
        neighborhood: the prompts about other subjects.
        written: generated texts, if they were asked for.
        essence_nll: mean negative log-probability of texts about the subject, nats per token; None
            if it was not asked for or there are none.
        drift: on ordinary text, if it was asked for.
        chat: the prompts asked in the chat template, if they were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rewrite: tuple[Asked, ...]
    paraphrase: tuple[Asked, ...]
    neighborhood: tuple[Asked, ...]
    written: Written | None = None
    essence_nll: float | None = None
    drift: Drift | None = None
    chat: InChat | None = None

    @model_serializer(mode="wrap")
    def _without_added(self, whole: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """What was added later is left out where it was not asked for, as in older files."""
        written = whole(self)
        if self.chat is None:
            written.pop("chat", None)
        return written

    @property
    def in_chat(self) -> "Measurement | None":
        """What was asked in the chat template, as if nothing else had been."""
        return None if self.chat is None else Measurement(**dict(self.chat))


class Row(BaseModel):
    """One record of a run: a line of its journal.

    Attributes:
        case_id: of the record.
        benchmark: which the record belongs to.
        relation_id: of the record.
        subject: of the fact.
        prompt: the rewriting prompt.
        target_new: of the fact.
        target_true: of the fact.
        before: on the unedited model.
        right_after: with the record's own edit as the last one of a sequence; None in other modes.
        after: with the edit, or with all edits that go into one model.
        failed: why the method could not write this fact; then nothing was measured after it.
        skipped: whether the edit left this fact out, its value having exploded (`norm_anchor`);
            what was measured is of the model without it.
        edit_s: seconds that the edit took, a batch's time shared equally.
        measure_s: seconds that measuring the edited model took, likewise.
        seed: of the generated texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: int
    benchmark: Benchmark
    relation_id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str | None
    before: Measurement
    right_after: Measurement | None = None
    after: Measurement | None
    failed: str = ""
    skipped: bool = False
    edit_s: float
    measure_s: float
    seed: int
