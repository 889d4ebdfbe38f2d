"""Which columns of what goes through a model are the caller's.

An engine may have to run more tokens than it was asked to, or in another order. Hooks are shown
only what the caller asked for.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of what goes through a module are the caller's.

    Attributes:
        n_left: columns that are run again only because the others depend on them.
        order: for each row and each of the caller's columns, the column in which it is run; None
            if that is the same. Rows padded on the left are run padded on the right, where no
            mixer can see the padding.
    """

    n_left: int = 0
    order: Int[Tensor, "row pos"] | None = None

    def inwards(self, state: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        """All columns, from the caller's order to that in which they are run."""
        if self.order is None:
            return state
        index = self._index(state)
        return torch.empty_like(state).scatter(1, index, state)

    def outwards(self, state: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        """All columns, back to the caller's order."""
        return state if self.order is None else state.gather(1, self._index(state))

    def seen(self, state: Float[Tensor, "row pos width"]) -> Float[Tensor, "row some width"]:
        """The caller's columns of a state inside the model."""
        return self.outwards(state)[:, self.n_left :]

    def with_seen(
        self, state: Float[Tensor, "row pos width"], changed: Float[Tensor, "row some width"]
    ) -> Float[Tensor, "row pos width"]:
        """A state inside the model with other values in the caller's columns."""
        if not self.n_left and self.order is None:
            return changed
        return self.inwards(torch.cat([self.outwards(state)[:, : self.n_left], changed], 1))

    def _index(self, state: Tensor) -> Tensor:
        order = self.order
        if order is None:
            raise RuntimeError("the columns are in their own order")
        repeats = state.shape[0] // order.shape[0]
        return order.to(state.device).repeat(repeats, 1)[:, :, None].expand(state.shape)


ALL = Columns()
