"""From states to log-probabilities: the only place that reads a model's answers off its states.

Logits are computed where a token is predicted, and nowhere else; in at least float32.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factlab.continuations import Continuation
from factlab.models.engines.engine import Hidden
from factlab.precision import widened

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


class Reads(NamedTuple):
    """Where the continuations of a batch are read, one after the other.

    Attributes:
        rows: of the batch.
        columns: of the batch.
        ids: the token that should come there; none if there are no targets.
    """

    rows: Int[Tensor, " read"]
    columns: Int[Tensor, " read"]
    ids: Int[Tensor, " token"]

    @classmethod
    def of(
        cls,
        continuations: Sequence[Continuation],
        rows: Sequence[int] | None = None,
        origins: Sequence[int] | None = None,
    ) -> "Reads":
        """Where some continuations are read.

        Args:
            continuations: all with a target, or all without.
            rows: the row that each is in; by default one after the other.
            origins: the position that stands in column 0, for each; by default its first.
        """
        numbers = range(len(continuations)) if rows is None else rows
        starts = [0] * len(continuations) if origins is None else origins
        reads = [
            (number, position - start)
            for number, start, each in zip(numbers, starts, continuations, strict=True)
            for position in each.reads
        ]
        ids = [token_id for each in continuations for token_id in each.target_ids]
        at_rows, at_columns = torch.tensor(reads, dtype=torch.long, device="cpu").T
        return cls(at_rows, at_columns, torch.tensor(ids, dtype=torch.long, device="cpu"))

    def to(self, device: torch.device) -> "Reads":
        """The same on a device, for what is read there again and again."""
        return Reads(*(each.to(device) for each in self))

    def states(self, hidden: Hidden) -> Float[Tensor, "read d_model"]:
        """The states at these places."""
        return hidden[self.rows.to(hidden.device), self.columns.to(hidden.device)]


def wide_logits(
    lm: "LanguageModel", states: Float[Tensor, "read d_model"]
) -> Float[Tensor, "read vocab"]:
    """Logits of the next token in at least float32, from states that leave the last layer."""
    return widened(lm.readout(states))


def token_logprobs(
    logits: Float[Tensor, "read vocab"], ids: Int[Tensor, " read"]
) -> Float[Tensor, " read"]:
    """Natural-log probability of one token at each place: its logit − log Σ exp(logits)."""
    return logits.gather(1, ids.to(logits.device)[:, None])[:, 0] - logits.logsumexp(-1)


def read_tokens(
    lm: "LanguageModel",
    states: Float[Tensor, "read d_model"],
    ids: Int[Tensor, " read"],
) -> tuple[Float[Tensor, " read"], Bool[Tensor, " read"]]:
    """What states say of the tokens that should follow, without gradients, on the CPU.

    Args:
        lm: the model.
        states: that leave the last layer, where tokens are predicted.
        ids: of these tokens.

    Returns:
        Log-probabilities, and whether each token is the most probable one there.
    """
    logprobs: list[Tensor] = []
    top: list[Tensor] = []
    at_once = lm.budget.readout_tokens
    with torch.no_grad():
        for part, part_ids in zip(states.split(at_once), ids.split(at_once), strict=True):
            logits = wide_logits(lm, part)
            logprobs.append(token_logprobs(logits, part_ids).cpu())
            top.append(logits.argmax(-1).cpu() == part_ids.cpu())
    return torch.cat(logprobs), torch.cat(top)


def log_distribution(
    lm: "LanguageModel", states: Float[Tensor, "read d_model"]
) -> Float[Tensor, "read vocab"]:
    """Natural-log probabilities of every next token, without gradients."""
    with torch.no_grad():
        return wide_logits(lm, states).log_softmax(-1)


def target_logprobs(
    logits: Float[Tensor, "read vocab"],
    ids: Int[Tensor, " read"],
    rows: Int[Tensor, " read"],
    n_rows: int,
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Log-probabilities of whole targets, and how many tokens each has.

    Args:
        logits: where each token of a target is predicted; float32 or wider.
        ids: of the tokens.
        rows: number of the target that each belongs to.
        n_rows: how many targets there are; of one without tokens both numbers are 0.
    """
    logprobs = token_logprobs(logits, ids)
    rows, zeros = rows.to(logits.device), logprobs.new_zeros(n_rows)
    return (
        zeros.index_add(0, rows, logprobs),
        zeros.index_add(0, rows, torch.ones_like(logprobs)),
    )


def target_nll(
    logprobs: Float[Tensor, "*n"], n_tokens: Float[Tensor, "*n"], erased: Bool[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    """What is minimised: −log P per token, or for erasure −log(1 − P) of the whole target.

    Args:
        logprobs: of whole targets.
        n_tokens: their lengths.
        erased: where the target is to become improbable.
    """
    unsaid = -torch.log(-torch.expm1(logprobs.clamp(max=-1e-7)))  # finite where P rounds to 1
    return torch.where(erased, unsaid, -logprobs / n_tokens)
