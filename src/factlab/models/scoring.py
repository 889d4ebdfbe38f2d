"""Log-probabilities of continuations, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import InvalidRequestError, counted
from factlab.models.engines.engine import select_rows
from factlab.models.reading import Reads, read_tokens, wide_logits
from factlab.tokens import groups, pad, shown
from factlab.writing import check_text, check_texts

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How probable a model finds a text after a prompt.

    Attributes:
        token_ids: of the continuation.
        logprobs: natural-log probability of each token given the prompt and the tokens before it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """Log-probability of the whole, in nats."""
        return math.fsum(self.logprobs)

    @property
    def prob(self) -> float:
        """Probability of the whole: the product over tokens."""
        return math.exp(self.logprob)

    @property
    def mean_nll(self) -> float:
        """Mean negative log-probability, in nats per token; what CounterFact's files store."""
        return -self.logprob / len(self.logprobs)

    @property
    def length_normalised_prob(self) -> float:
        """Geometric mean of the token probabilities, exp(-mean_nll)."""
        return math.exp(-self.mean_nll)


def _batches(lm: "LanguageModel", rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Row numbers in batches of similar length, so that little is padded."""
    lengths, budget = [len(row) for row in rows], lm.budget
    return groups(lengths, budget.pass_tokens(), budget.enough_tokens)


@torch.no_grad()
def next_token_probs(lm: "LanguageModel", prompts: Sequence[str]) -> Float[Tensor, "batch vocab"]:
    """Distribution of the token after each prompt, on the CPU in at least float32."""
    check_texts(prompts, "prompts")
    if not prompts:
        raise InvalidRequestError("The list of prompts is empty. Give at least one.")
    rows = [lm.encode(prompt).ids for prompt in prompts]
    by_row: dict[int, Tensor] = {}
    with lm.frozen():
        for numbers in _batches(lm, rows):
            batch = pad([rows[i] for i in numbers], lm.device)
            last = batch.is_token.sum(1) - 1
            hidden = lm.run(lm.frame(batch))
            states = select_rows(hidden, last.to(hidden.device)).split(lm.budget.readout_tokens)
            probs = torch.cat([wide_logits(lm, part).softmax(-1).cpu() for part in states])
            by_row |= dict(zip(numbers, probs, strict=True))
    return torch.stack([by_row[i] for i in range(len(prompts))])


def top_tokens(lm: "LanguageModel", prompt: str, k: int) -> list[tuple[str, float]]:
    """The k most probable next tokens, as text, with their probabilities."""
    check_text(prompt, "prompt")
    (every,) = next_token_probs(lm, [prompt])
    probs, ids = every.topk(min(k, len(every)))
    return list(zip(shown(lm.tokenizer, ids.tolist()), probs.tolist(), strict=True))


@torch.no_grad()
def score(
    lm: "LanguageModel", prompts: Sequence[str], targets: Sequence[str]
) -> list[ContinuationScore]:
    """Score each target after its prompt. Logits are computed where a target token is, only.

    Raises:
        InvalidRequestError: one is a single text, the two lists differ in length, or a text is
            empty or too long.
    """
    check_texts(prompts, "prompts")
    check_texts(targets, "targets")
    if len(prompts) != len(targets):
        raise InvalidRequestError(
            f"{counted(len(prompts), 'prompt')} but {counted(len(targets), 'target')}. "
            "Give one target for each prompt."
        )
    pairs = [lm.continuation(*pair) for pair in zip(prompts, targets, strict=True)]
    scores: dict[int, ContinuationScore] = {}
    with lm.frozen():
        for numbers in _batches(lm, [pair.inputs for pair in pairs]):
            asked = [pairs[i] for i in numbers]
            hidden = lm.run(lm.frame(pad([pair.inputs for pair in asked], lm.device)))
            reads = Reads.of(asked)
            logprobs, _ = read_tokens(lm, reads.states(hidden), reads.ids)
            values = logprobs.split([len(pair.target_ids) for pair in asked])
            for i, pair, value in zip(numbers, asked, values, strict=True):
                scores[i] = ContinuationScore(pair.target_ids, tuple(value.tolist()))
    return [scores[i] for i in range(len(prompts))]
