"""What is measured of one record on one model, as it is written to disk.

A run keeps the raw numbers, token by token; every score in a report is computed from them.
"""

import math
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from factlab.data.records import Benchmark
from factlab.data.ripple_query import RippleQuery
from factlab.documents import Growing
from factlab.evaluation.configs import AnswerForm

Group = Literal["rewrite", "paraphrase", "neighborhood"]
AnswerGroup = Literal["rewrite", "paraphrase", "question", "neighborhood"]


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


class Written(Growing):
    """Texts that a model wrote about the subject.

    Attributes:
        texts: prompt and continuation, one per generation prompt.
        entropy: GE: mean over the texts of the weighted entropy of their word n-grams, in bits.
        consistency: RS: cosine between their TF-IDF and that of the references, 0–1; None if
            there are no references.
        no_consistency: why there is none.
        words: whose words the entropy is of: NLTK's. Rows of earlier versions do not say, and had
            words of their own: their entropy is worked out again from the texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    added = frozenset({"words"})

    texts: tuple[str, ...]
    entropy: float
    consistency: float | None = None
    no_consistency: str = ""
    words: Literal["", "nltk"] = ""


class GivenAnswer(BaseModel):
    """What a model answered in its own words.

    Attributes:
        group: which of the record's prompts was asked.
        form: how it was asked.
        prompt: the prompt, as the record has it.
        text: the answer, greedy, up to the end of its first sentence or line.
        right: what would be right after the edit: the new target and its aliases; of a prompt about
            another subject what is true there.
        old: what was true of the edited fact before, if that is known.
        judged: whether a judge takes it for right; None if none has, or none could tell. It is
            kept beside the run and put in when that is read.
        unjudged: why a judge that was asked could not tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: AnswerGroup
    form: AnswerForm
    prompt: str
    text: str
    right: tuple[str, ...]
    old: str | None = None
    judged: bool | None = Field(default=None, exclude=True)
    unjudged: str = Field(default="", exclude=True)


class RippleTold(Growing):
    """What a model makes of a ripple query, or of one of its conditions.

    Attributes:
        said: what it wrote, greedily, of a query that it is to say the answer of.
        answers: how it takes each answer, of a query whose candidates are compared.
        others: how it takes each of the other candidates.
        conditions: of the unedited model, what it makes of the query's conditions.
        unasked: why it could not be asked, such as for a prompt that is too long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    added = frozenset({"said", "answers", "others", "conditions", "unasked"})

    said: str | None = None
    answers: tuple[TargetScore, ...] = ()
    others: tuple[TargetScore, ...] = ()
    conditions: tuple["RippleTold", ...] = ()
    unasked: str = ""


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


class Measurement(Growing):
    """One record on one model.

    Attributes:
        rewrite: the rewriting prompt.
        paraphrase: the paraphrases, in the record's order.
        neighborhood: the prompts about other subjects.
        written: generated texts, if they were asked for.
        essence_nll: mean negative log-probability of texts about the subject, nats per token; None
            if it was not asked for or there are none.
        drift: on ordinary text, if it was asked for.
        answers: in the model's own words, if they were asked for.
        ripple: what the model makes of the row's ripple queries, if they were asked.
        chat: the prompts asked in the chat template, if they were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    added = frozenset({"answers", "ripple", "chat"})

    rewrite: tuple[Asked, ...]
    paraphrase: tuple[Asked, ...]
    neighborhood: tuple[Asked, ...]
    written: Written | None = None
    essence_nll: float | None = None
    drift: Drift | None = None
    answers: tuple[GivenAnswer, ...] | None = None
    ripple: tuple[RippleTold, ...] | None = None
    chat: InChat | None = None

    @property
    def in_chat(self) -> "Measurement | None":
        """What was asked in the chat template, as if nothing else had been."""
        return None if self.chat is None else Measurement(**dict(self.chat))


class Row(Growing):
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
        ripple: the ripple queries that were asked, if any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    added = frozenset({"ripple"})

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
    ripple: tuple[RippleQuery, ...] = ()
