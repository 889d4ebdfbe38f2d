"""What is asked about a record: its prompts with a problem's target, and texts about its subject.

Under noise everything is asked with noise on the subject, wherever it stands; prompts about other
subjects stay what they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.continuations import Continuation, continuation_of
from factlab.data.records import Record
from factlab.editing.noised import NoisedSubjects
from factlab.evaluation.scoring.problem_scores import Told
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.models.texts import fitting, tokenise
from factlab.tokens import subject_span


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Rows of one record, in the order in which `Told` has them.

    Attributes:
        rows: the fact's prompt, paraphrases and neighbours with the target; then the texts.
        n_paraphrases: how many.
        n_neighbours: how many.
        text_lengths: tokens of each text.
    """

    rows: tuple[Continuation, ...]
    n_paraphrases: int
    n_neighbours: int
    text_lengths: tuple[int, ...]

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        record: Record,
        target: str,
        texts: Sequence[str] = (),
        noised: NoisedSubjects | None = None,
        text_tokens: int | None = None,
    ) -> "AskedRows":
        """Tokenise them.

        Args:
            lm: the model.
            record: what is asked about.
            target: of the problem.
            texts: about the subject, of two tokens or more.
            noised: puts noise on the subject; by default there is none.
            text_tokens: no more of a text is read.

        Raises:
            TokenizationError: a prompt is empty or too long, the target makes no token of its own,
                or shares one with the subject.
        """
        fact = record.fact
        prompts = [fact.prompt, *record.paraphrase_prompts]
        rows = [_asked(lm, fact, prompt, target, noised) for prompt in prompts]
        rows += [lm.continuation(prompt, target) for prompt in record.neighborhood_prompts]
        read = [_text(lm, fact, text, noised, text_tokens) for text in texts]
        return cls(
            (*rows, *read),
            len(record.paraphrase_prompts),
            len(record.neighborhood_prompts),
            tuple(len(row.ids) for row in read),
        )

    def told(self, logprobs: Sequence[float]) -> Told:
        """What the rows' log-probabilities, in their order, say."""
        values, first = iter(logprobs), 1 + self.n_paraphrases
        prompts = [next(values) for _ in range(first + self.n_neighbours)]
        return Told(
            rewrite=prompts[0],
            paraphrase=tuple(prompts[1:first]),
            neighborhood=tuple(prompts[first:]),
            essence=tuple(values),
        )


def _asked(
    lm: LanguageModel, fact: Fact, prompt: str, target: str, noised: NoisedSubjects | None
) -> Continuation:
    start = prompt.find(fact.subject)
    if noised is None or start < 0:
        return lm.continuation(prompt, target)
    tokens = tokenise(lm, prompt, target)
    span = subject_span(tokens, start, fact.subject)
    return noised.of(fitting(lm, continuation_of(tokens, span)), fact)


def _text(
    lm: LanguageModel, fact: Fact, text: str, noised: NoisedSubjects | None, n_tokens: int | None
) -> Continuation:
    """A text as its first token and what follows that."""
    tokens = tokenise(lm, text)
    ids, start = tokens.ids[:n_tokens], text.find(fact.subject)
    row = Continuation.behind(ids[:1], ids[1:])
    if noised is None or start < 0:
        return row
    return noised.of_span(row, fact, subject_span(tokens, start, fact.subject))
