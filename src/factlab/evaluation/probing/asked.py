"""What the probes ask about edited facts, checked so that nothing about a fact can fail later."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from factlab.continuations import Continuation
from factlab.data.records import Record
from factlab.data.ripple.world import RippleWorld
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.evaluation.measuring.likelihood import Question
from factlab.evaluation.measuring.subject_texts import essence_prompt, subject_texts
from factlab.evaluation.probing.configs import ProbeConfig
from factlab.evaluation.probing.essence import text_row
from factlab.evaluation.probing.inverse import Prompted, inverse_prompts
from factlab.models.language_model import LanguageModel
from factlab.writing import behind


@dataclass(slots=True)
class AskedFact:
    """What is asked about one fact. What cannot be has a reason in its place.

    Attributes:
        record: the fact.
        unusable: why the fact itself cannot be asked, so that it is not edited either.
        own: the fact's prompt with its new object and its true one, as far as there are any.
        inverse: the inverse prompt of the new object.
        inverse_true: of the true object.
        no_inverse: why there is none.
        opening: "{subject} is a".
        texts: of the unedited model about the subject, as tokens.
        no_essence: why there are none.
    """

    record: Record
    unusable: str = ""
    own: Prompted | None = None
    inverse: Prompted | None = None
    inverse_true: Prompted | None = None
    no_inverse: str = ""
    opening: str = ""
    texts: list[Continuation] = field(default_factory=list[Continuation])
    no_essence: str = ""

    @property
    def prompts(self) -> list[Prompted]:
        """All that are followed by something; always in this order."""
        return [one for one in (self.own, self.inverse, self.inverse_true) if one is not None]

    def questions(self, lm: LanguageModel, owner: int, prefix: str = "") -> list[Question]:
        """The prompts as tokens, to an edited model, behind the text of an edit that is one.

        Raises:
            TokenizationError: a prompt is too long.
        """
        return [questioned(lm, prompted, owner, prefix) for prompted in self.prompts]


def questioned(lm: LanguageModel, prompted: Prompted, owner: int, prefix: str = "") -> Question:
    """A prompt with what may follow it, as tokens.

    Raises:
        TokenizationError: it is too long, or a target makes no token of its own.
    """
    return Question.of(lm, behind(prefix, prompted.prompt), prompted.targets, owner)


def asked_facts(
    lm: LanguageModel,
    records: Sequence[Record],
    world: RippleWorld,
    config: ProbeConfig,
) -> list[AskedFact]:
    """What is asked about some facts; texts about their subjects are written here, all at once.

    Args:
        lm: the model, without the edits.
        records: the facts; the random numbers of texts follow from their case_id.
        world: facts and words for inverse prompts.
        config: what to ask.
    """
    asked = [_prompts_of(lm, record, world, config) for record in records]
    for one in asked:
        _open(lm, one, config)
    wanted = [i for i, one in enumerate(asked) if not one.no_essence]
    written = subject_texts(
        lm, [records[i].fact.subject for i in wanted], [records[i].case_id for i in wanted],
        config.essence_texts, config.essence_tokens, config.seed,
    )  # fmt: skip
    for i, texts in zip(wanted, written, strict=True):
        asked[i].texts = [text_row(lm, text, config.essence_tokens) for text in texts]
    return asked


def _prompts_of(
    lm: LanguageModel, record: Record, world: RippleWorld, config: ProbeConfig
) -> AskedFact:
    fact, asked = record.fact, AskedFact(record)
    targets = tuple(each for each in (fact.target_new, fact.target_true) if each is not None)
    asked.own = Prompted(fact.prompt, targets) if targets else None
    try:
        if fact.subject:
            lm.fact_continuation(fact)
        _check(lm, [asked.own])
    except (InvalidRequestError, TokenizationError) as error:
        asked.unusable = str(error)
        asked.own = None
        asked.no_inverse = asked.no_essence = "the fact cannot be asked"
        return asked
    found = inverse_prompts(record, world, config.candidates, config.seed)
    try:
        if isinstance(found, str):
            asked.no_inverse = found
        else:
            _check(lm, found)
            asked.inverse, asked.inverse_true = found
    except (InvalidRequestError, TokenizationError) as error:
        asked.no_inverse = str(error)
    return asked


def _check(lm: LanguageModel, prompts: Iterable[Prompted | None]) -> None:
    for prompted in prompts:
        if prompted is not None:
            questioned(lm, prompted, 0)


def _open(lm: LanguageModel, asked: AskedFact, config: ProbeConfig) -> None:
    """See whether texts about the subject can be written."""
    subject = asked.record.fact.subject
    if asked.unusable:
        return
    if not subject:
        asked.no_essence = "the fact has no subject"
        return
    opening = essence_prompt(subject)
    try:
        n_tokens = len(lm.encode(opening).ids)
    except (InvalidRequestError, TokenizationError) as error:
        asked.no_essence = str(error)
        return
    asked.opening = opening
    if not config.essence_texts:
        asked.no_essence = "texts about the subject were not asked for"
    elif n_tokens >= min(config.essence_tokens, lm.context_length or config.essence_tokens):
        asked.no_essence = "the subject leaves no room for a text"
