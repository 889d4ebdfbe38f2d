"""What closed forms make of a mixture of experts: changes of the experts that a key is sent to.

The derivation is in `factlab.models.experts`: with stacked keys a mixture is one linear memory, so
what remains to be done here is to cut factors into the experts' blocks, and to say what each of
them brings about.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError
from factlab.models.changes.expert_update import ExpertUpdate
from factlab.models.experts import Mixture
from factlab.stats.expert_moments import active_experts


def update_of_experts(
    name: str,
    mixture: Mixture,
    left: Float[Tensor, "d_out rank"],
    right: Float[Tensor, "rank width"],
    dtype: torch.dtype,
) -> ExpertUpdate:
    """Left @ right, of the stacked matrix, as a change of the experts that it is not zero for.

    Args:
        name: of the parameter.
        mixture: whose it is.
        left: one column for each fact.
        right: one stacked row for each.
        dtype: of the factors.

    Raises:
        EditError: it is zero for all experts.
    """
    blocks = right.unflatten(1, (mixture.n_experts, mixture.d_expert))
    experts = active_experts(blocks)
    if not experts:
        raise EditError("No expert has a key here, so no change of one could write the fact.")
    numbers = torch.tensor(experts, device="cpu")
    if len(right) > len(left):  # more facts than dimensions of the output
        blocks = torch.einsum("or,rei->oei", left, blocks)
        left = torch.eye(len(left), dtype=left.dtype, device="cpu")
    picked = blocks[:, numbers].transpose(0, 1).contiguous()
    return ExpertUpdate(
        name, mixture.layout, numbers, left.contiguous().to(dtype), picked.to(dtype)
    )


def only_largest(
    mixture: Mixture, key: Float[Tensor, " width"], direction: Float[Tensor, " width"]
) -> Float[Tensor, " width"]:
    """C⁻¹ κ of the expert alone with the largest share in the key."""
    best = int(_shares(mixture, key, direction).argmax())
    alone = torch.zeros_like(direction)
    block = slice(best * mixture.d_expert, (best + 1) * mixture.d_expert)
    alone[block] = direction[block]
    return alone


def _shares(
    mixture: Mixture, key: Float[Tensor, " width"], direction: Float[Tensor, " width"]
) -> Float[Tensor, " expert"]:
    """κ_eᵀ d_e / κᵀ d of each expert, for a direction d; they add up to 1."""
    products = (key * direction).unflatten(0, (mixture.n_experts, -1)).sum(-1)
    return products / products.sum()


def told_of_experts(
    mixture: Mixture,
    key: Float[Tensor, " width"],
    direction: Float[Tensor, " width"],
    weights: Float[Tensor, " expert"] | None,
) -> list[dict[str, Any]]:
    """What each expert does in an edit, largest share first, ready for JSON.

    Args:
        mixture: of the layer.
        key: κ.
        direction: what is written along, C⁻¹ κ or a part of it.
        weights: of the router, if they are known.

    Returns:
        For each expert that the key is sent to: `expert`, its number; `weight`, the router's (mean
        over contexts; None if it multiplies what enters the expert); `share` of δ that it brings
        about.
    """
    shares = _shares(mixture, key, direction)
    sent = active_experts(key.view(1, mixture.n_experts, -1))
    return [
        {
            "expert": expert,
            "weight": None if weights is None else float(weights[expert]),
            "share": float(shares[expert]),
        }
        for expert in sorted(sent, key=lambda e: -float(shares[e]))
    ]
