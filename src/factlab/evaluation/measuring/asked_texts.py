"""What a record asks, tokenised once: for checking it, and for measuring it before and after."""

from dataclasses import dataclass

from factlab.continuations import Continuation
from factlab.data.records import Record
from factlab.data.ripple.compile import asked_queries
from factlab.data.ripple_query import RippleQuery
from factlab.errors import InvalidRequestError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.free_answers import FreeQuestion, FreeQuestions
from factlab.evaluation.measuring.ripple import RippleProbe, ripple_probe
from factlab.evaluation.measuring.rows import Group
from factlab.models.language_model import LanguageModel
from factlab.models.texts import wrapped_continuation
from factlab.wrapping import ChatForms
from factlab.writing import behind

# Records whose tokens are kept: some 30 MB of CounterFact's.
_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt of a record, and the targets that it is asked for.

    Attributes:
        group: which of the record's prompts it is.
        prompt: the text.
        targets: `new` and `true`, where they are asked for.
    """

    group: Group
    prompt: str
    targets: dict[str, str]


@dataclass(frozen=True, slots=True)
class AskedTexts:
    """The texts of one record as tokens.

    Attributes:
        asks: what is asked.
        continuations: for each of them its prompt with each of its targets.
        generation: for each generation prompt its tokens.
        free: what the model is to answer in its own words.
        ripple: its ripple queries, with their conditions.
        in_chat: for each of `asks` the same in the chat template, if that is asked for.
    """

    asks: tuple[Ask, ...]
    continuations: tuple[tuple[Continuation, ...], ...]
    generation: tuple[tuple[int, ...], ...]
    free: tuple[FreeQuestion, ...] = ()
    ripple: tuple[RippleProbe, ...] = ()
    in_chat: tuple[tuple[Continuation, ...], ...] = ()


class TokenisedRecords:
    """Texts of records, tokenised when they are first asked for.

    Of a long list only the first records are kept; the others are tokenised at each use.

    Args:
        lm: the model.
        config: what is to be measured; by default likelihoods alone.

    Attributes:
        forms: of the model's chat template, if prompts are asked in it too.

    Raises:
        InvalidRequestError: the model cannot be asked in one of the forms.
    """

    def __init__(self, lm: LanguageModel, config: MeasureConfig | None = None) -> None:
        self.lm, self._config = lm, config or MeasureConfig()
        self.forms = lm.chat_forms() if self._config.chat else None
        self._free = FreeQuestions(lm, self._config.answers)
        self._kept: dict[tuple[Record, str], AskedTexts] = {}

    def of(self, record: Record, prefix: str = "") -> AskedTexts:
        """The texts of a record.

        Args:
            record: what is asked.
            prefix: stands in front of every prompt.

        Raises:
            TokenizationError: a prompt is too long, or a target makes no token of its own.
            InvalidRequestError: a target is empty, or a prompt is in a chat template already.
        """
        texts = self._kept.get((record, prefix))
        if texts is None:
            every = tuple(asks(record))
            texts = AskedTexts(
                every,
                tuple(
                    tuple(
                        self.lm.continuation(behind(prefix, ask.prompt), target)
                        for target in ask.targets.values()
                    )
                    for ask in every
                ),
                tuple(
                    self.lm.encode(behind(prefix, prompt)).ids
                    for prompt in record.generation_prompts
                ),
                self._free.of(record, prefix) if record.fact.target_new is not None else (),
                tuple(
                    ripple_probe(self.lm, query, prefix) for query in self.ripple_queries(record)
                ),
                ()
                if self.forms is None
                else tuple(self._in_chat(self.forms, ask, prefix) for ask in every),
            )
            if len(self._kept) < _KEPT:
                self._kept[record, prefix] = texts
        return texts

    def ripple_queries(self, record: Record) -> tuple[RippleQuery, ...]:
        """The ripple queries that a record is asked; none where they are not measured."""
        config = self._config
        return asked_queries(record, config.ripple_per_axis, config.seed) if config.ripple else ()

    def _in_chat(self, forms: ChatForms, ask: Ask, prefix: str) -> tuple[Continuation, ...]:
        prompt = behind(prefix, ask.prompt)
        form = forms.of(prompt)
        return tuple(
            wrapped_continuation(self.lm, prompt, form, target) for target in ask.targets.values()
        )

    def check(self, record: Record) -> None:
        """Tokenise all that a record asks, so that nothing about it can fail later.

        Raises:
            InvalidRequestError: it has no new target, or one is empty.
            TokenizationError: a text cannot be asked.
        """
        if record.fact.target_new is None:
            raise InvalidRequestError(f"Record {record.case_id} has no new target.")
        if record.fact.subject:
            self.lm.fact_continuation(record.fact)
        self.of(record)


def asks(record: Record) -> list[Ask]:
    """All that a record asks: ROME paper, section 3.3; of zsRE, section 3.2."""
    fact = record.fact
    both = {"new": fact.target_new, "true": fact.target_true}
    targets = {kind: target for kind, target in both.items() if target is not None}
    every = [Ask("rewrite", fact.prompt, targets)]
    every += [Ask("paraphrase", prompt, targets) for prompt in record.paraphrase_prompts]
    answers = [{"true": answer} for answer in record.neighborhood_answers]
    of_neighbours = answers or [targets] * len(record.neighborhood_prompts)
    every += [
        Ask("neighborhood", prompt, answer)
        for prompt, answer in zip(record.neighborhood_prompts, of_neighbours, strict=True)
    ]
    return every
