"""Log-probabilities of whole targets, and what of them is minimised."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def target_logprobs(
    logits: Float[Tensor, "read vocab"],
    ids: Int[Tensor, " read"],
    places: Int[Tensor, " read"],
    n_places: int,
) -> tuple[Float[Tensor, " place"], Float[Tensor, " place"]]:
    """Log-probabilities of whole targets, and how many tokens each has.

    Args:
        logits: where each token of a target is read; float32 or wider.
        ids: of the tokens.
        places: number of the target that each belongs to.
        n_places: how many targets there are.
    """
    ids, places = ids.to(logits.device), places.to(logits.device)
    logprobs = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)
    zeros = logprobs.new_zeros(n_places)
    return (
        zeros.index_add(0, places, logprobs),
        zeros.index_add(0, places, torch.ones_like(logprobs)),
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
