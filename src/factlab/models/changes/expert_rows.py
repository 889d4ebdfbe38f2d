"""Rows of a batch that carry changes of experts, each the change of its owner."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from factlab.errors import InvalidRequestError
from factlab.models.changes.expert_update import ExpertUpdate
from factlab.models.changes.owners import Owners
from factlab.models.experts import Mixture, expert_keys, routed
from factlab.places import places


@dataclass(frozen=True, slots=True, eq=False)
class ExpertRows:
    """Changes of the experts of one layer, for some owners; others have none.

    What the experts give gets left (right_e κ_e) more, for each expert that a token was sent to.

    Attributes:
        container: the experts.
        mixture: how they are kept and called.
        changes: by owner.
    """

    container: nn.Module
    mixture: Mixture
    changes: Mapping[int, ExpertUpdate]

    @torch.no_grad()
    def add_to(self, output: Tensor, args: Any, kwargs: Any, owners: Owners) -> None:
        """Add to what the experts gave, in place.

        Raises:
            InvalidRequestError: the batch has another number of rows than there are owners.
        """
        calls = routed(self.mixture, self.container, args, kwargs)
        whose = _owners_of_tokens(owners, len(calls.weights), output.device)
        given = output.view(-1, output.shape[-1])
        for expert in sorted({n for change in self.changes.values() for n in change.numbers}):
            tokens, keys = expert_keys(self.mixture, self.container, calls, expert)
            for number, change in self.changes.items():
                factors = change.of(expert)
                (some,) = torch.nonzero(whose[tokens] == number, as_tuple=True)
                if factors is None or not len(some):
                    continue
                left, right = (factor.to(keys) for factor in factors)
                at = tokens[some]
                if self.mixture.sorted_rows:
                    at = at + expert * len(calls.weights)
                given[at] += ((keys[some] @ right.T) @ left.T).to(given.dtype)


def _owners_of_tokens(owners: Owners, n_tokens: int, device: torch.device) -> Int[Tensor, " token"]:
    each, rest = divmod(n_tokens, len(owners.numbers))
    if rest:
        raise InvalidRequestError(
            f"A batch of {n_tokens} tokens has no rows of one length for {len(owners.numbers)} "
            "owners. Say whose change each row of the batch carries."
        )
    return places(owners.numbers, device).repeat_interleave(each)


def experts_forward(
    product: Callable[..., Tensor], change: ExpertRows, owners: Owners, *args: Any, **kwargs: Any
) -> Tensor:
    """What a container of experts gives, with the changes of the rows' owners."""
    output = product(*args, **kwargs).clone()
    change.add_to(output, args, kwargs, owners)
    return output
