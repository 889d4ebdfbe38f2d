"""Adam for many independent problems at once, of which some end before others."""

import torch
from jaxtyping import Float
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2015) with its usual constants; the first dimension is the problem.

    Args:
        like: what is optimised.
        learning_rate: of every step.
    """

    def __init__(self, like: Float[Tensor, "problem ..."], learning_rate: float) -> None:
        self._rate, self._steps = learning_rate, 0
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like)

    def move(
        self, gradient: Float[Tensor, "problem ..."], _loss: Float[Tensor, " problem"]
    ) -> Float[Tensor, "problem ..."]:
        """What to add."""
        self._steps += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.lerp_(gradient.square(), 0.001)
        mean = self._mean / (1 - 0.9**self._steps)
        root = (self._square / (1 - 0.999**self._steps)).sqrt_()
        return mean.div_(root.add_(1e-8)).mul_(-self._rate)

    def keep(self, problems: Tensor) -> None:
        """Forget all others."""
        self._mean, self._square = self._mean[problems], self._square[problems]
