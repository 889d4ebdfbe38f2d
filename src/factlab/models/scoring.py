"""Log-probabilities of continuations, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import InvalidRequestError
from factlab.models.decoder import Decoder
from factlab.models.replay import select_rows
from factlab.tokens import encode_continuation, pad


@dataclass(frozen=True, slots=True)
class Continuation:
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


def _by_length(rows: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of similar length, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@torch.no_grad()
def next_token_probs(
    lm: Decoder, prompts: list[str], batch_size: int
) -> Float[Tensor, "batch vocab"]:
    """Distribution of the token after each prompt, float32 on the CPU."""
    if not prompts:
        raise InvalidRequestError("The list of prompts is empty. Give at least one.")
    rows = [lm.encode(prompt).ids for prompt in prompts]
    found: dict[int, Tensor] = {}
    with lm.frozen():
        for numbers in _by_length(rows, batch_size):
            batch = pad([rows[i] for i in numbers], lm.device)
            last = batch.is_token.sum(1) - 1
            hidden = lm.run(lm.frame(batch))
            logits = lm.readout(select_rows(hidden, last.to(hidden.device)))
            probs = logits.float().softmax(-1).cpu()
            found |= dict(zip(numbers, probs, strict=True))
    return torch.stack([found[i] for i in range(len(prompts))])


@torch.no_grad()
def score(
    lm: Decoder, prompts: list[str], targets: list[str], batch_size: int
) -> list[Continuation]:
    """Score each target after its prompt. Logits are computed where a target token is, only.

    Raises:
        InvalidRequestError: the two lists differ in length, or a text is empty or too long.
    """
    if len(prompts) != len(targets):
        raise InvalidRequestError(f"{len(prompts)} prompts but {len(targets)} targets.")
    pairs = [
        encode_continuation(lm.tokenizer, prompt, target)
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    # The last target token is never an input.
    rows = [(*prompt_ids, *target_ids[:-1]) for prompt_ids, target_ids in pairs]
    for row in rows:
        lm.check_length(len(row) + 1)
    found: dict[int, Continuation] = {}
    with lm.frozen():
        for numbers in _by_length(rows, batch_size):
            batch = pad([rows[i] for i in numbers], lm.device)
            hidden = lm.run(lm.frame(batch))
            reads = [(j, len(pairs[i][0]) - 1, pairs[i][1]) for j, i in enumerate(numbers)]
            states = [hidden[j, at : at + len(target)] for j, at, target in reads]
            wanted = torch.tensor([t for _, _, target in reads for t in target])
            logprobs = lm.readout(torch.cat(states)).float().log_softmax(-1).cpu()
            values = logprobs.gather(1, wanted[:, None])[:, 0].split([len(s) for s in states])
            for i, value in zip(numbers, values, strict=True):
                found[i] = Continuation(pairs[i][1], tuple(value.tolist()))
    return [found[i] for i in range(len(prompts))]
