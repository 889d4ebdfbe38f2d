"""What an edit does to its subject beside the fact: texts about it, and the next token.

The texts are the unedited model's own (Hase et al. 2023, section 3.4): those that an edited model
finds less probable were part of what it knew about the subject.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.models.changes.carried import Carried, carrying
from factlab.models.language_model import LanguageModel
from factlab.models.reading import log_distribution
from factlab.models.texts import tokenise
from factlab.tokens import groups, pad


def text_row(lm: LanguageModel, text: str, n_tokens: int) -> Continuation:
    """A text as its first token and what follows it; no more than so many tokens are read."""
    ids = tokenise(lm, text).ids[:n_tokens]
    return Continuation.behind(ids[:1], ids[1:])


@torch.no_grad()
def next_token_logprobs(
    lm: LanguageModel,
    rows: Sequence[tuple[int, ...]],
    owners: Sequence[int],
    changes: Mapping[str, Carried],
) -> list[Float[Tensor, " vocab"]]:
    """Natural-log probabilities of every next token, behind each row of tokens, on the CPU.

    Args:
        lm: the model.
        rows: tokens of prompts.
        owners: for each row the number of its edit.
        changes: what owners stand for (`row_changes`); none ask the model as it is.
    """
    found: dict[int, Tensor] = {}
    with lm.frozen():
        for numbers in groups([len(row) for row in rows], lm.budget.pass_tokens()):
            batch = pad([rows[i] for i in numbers], lm.device)
            with carrying(lm, changes, [owners[i] for i in numbers]):
                hidden = lm.run(lm.frame(batch))
            for place, i in enumerate(numbers):
                last = len(rows[i]) - 1
                found[i] = log_distribution(lm, hidden[place, last : last + 1])[0].cpu()
    return [found[i] for i in range(len(rows))]


def divergence(before: Float[Tensor, " vocab"], after: Float[Tensor, " vocab"]) -> float:
    """KL divergence of two distributions, before ‖ after, in nats; at least 0, or NaN."""
    first, second = before.cpu().double(), after.cpu().double()
    kl = float((first.exp() * (first - second)).sum())
    # Rounding may take it below 0. NaN must stay NaN.
    return 0.0 if kl < 0 else kl
