"""Step rules for many independent problems at once, of which some end before others."""

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.descent import Loss, Stack


class Adam:
    """Adam (Kingma and Ba 2015) with its usual constants.

    Args:
        like: what is optimised.
        learning_rate: of every step.
    """

    def __init__(self, like: Stack, learning_rate: float) -> None:
        self._rate, self._steps = learning_rate, 0
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like)

    def move(self, gradient: Stack, loss: Loss) -> Stack:
        """What to add."""
        del loss  # it goes by gradients alone
        self._steps += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.lerp_(gradient.square(), 0.001)
        mean = self._mean / (1 - 0.9**self._steps)
        root = (self._square / (1 - 0.999**self._steps)).sqrt_()
        return mean.div_(root.add_(1e-8)).mul_(-self._rate)

    def keep(self, problems: Tensor) -> None:
        """Forget all others."""
        self._mean, self._square = self._mean[problems], self._square[problems]


class Polyak:
    """Polyak's step, loss / ‖g‖ along −g, bounded, with heavy-ball momentum.

    Args:
        like: what is optimised, a vector for each problem.
        longest: most that a step may be long, by problem.
        momentum: share of the last move that is gone once more.
    """

    def __init__(
        self,
        like: Float[Tensor, "problem width"],
        longest: Float[Tensor, " problem"],
        momentum: float,
    ) -> None:
        self._longest, self._momentum = longest, momentum
        self._last = torch.zeros_like(like)

    def move(
        self, gradient: Float[Tensor, "problem width"], loss: Loss
    ) -> Float[Tensor, "problem width"]:
        """What to add."""
        slope = gradient.norm(dim=1).clamp(min=1e-12)
        length = torch.minimum(loss / slope, self._longest)
        self._last = self._momentum * self._last - (length / slope)[:, None] * gradient
        return self._last

    def keep(self, problems: Tensor) -> None:
        """Forget all others."""
        self._longest, self._last = self._longest[problems], self._last[problems]
