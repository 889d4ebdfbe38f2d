"""Mean and spread of states, gone on with as more of them come."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Moments(NamedTuple):
    """Of some states seen so far.

    Attributes:
        n: how many.
        mean: of each dimension.
        spread: of each dimension, the sum of squared distances from the mean.
    """

    n: float
    mean: Float[Tensor, " width"]
    spread: Float[Tensor, " width"]

    def with_more(self, states: Float[Tensor, "token width"]) -> "Moments":
        """The same with more states, by Chan's way to merge two sets, which loses no digits."""
        if not len(states):
            return self
        new = states.to(self.mean.device).to(self.mean.dtype)
        total, mean = self.n + len(new), new.mean(0)
        apart = mean - self.mean
        between = apart.square() * (self.n * len(new) / total)
        spread = self.spread + (new - mean).square().sum(0) + between
        return Moments(total, self.mean + apart * (len(new) / total), spread)
