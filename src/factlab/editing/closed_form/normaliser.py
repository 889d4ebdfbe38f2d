"""Inputs and gradients of a matrix by their own mean and deviation, over all turns so far.

After every turn the moments are left with its edit (`remembered`), so that a sequence that is gone
on with is the same as one that was never interrupted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from factlab.editing.gradients import Matrix, TokenStates
from factlab.editing.remembered import Remembered
from factlab.editing.running import Moments
from factlab.errors import EditError


class Normaliser(NamedTuple):
    """Of one matrix.

    Attributes:
        weight_name: of the matrix.
        d_in: width of its input.
        moments: of input and gradient side by side, over all tokens so far.
    """

    weight_name: str
    d_in: int
    moments: Moments

    @classmethod
    def after(cls, past: Sequence[Remembered], matrix: Matrix) -> "Normaliser":
        """As the last turn left it that had the matrix, or new.

        Args:
            past: what earlier edits left, in their order.
            matrix: the matrix.

        Raises:
            EditError: what was left is of another model, or damaged.
        """
        name, width = matrix.weight_name, matrix.d_in + matrix.d_out
        n_key, mean_key, spread_key = _keys(name)
        block = next((b.tensors for b in reversed(past) if n_key in b.tensors), None)
        if block is None:
            zeros = torch.zeros(width, dtype=torch.float64, device="cpu")
            return cls(name, matrix.d_in, Moments(0, zeros, zeros))
        found = [block.get(key) for key in (mean_key, spread_key)]
        n = float(block[n_key]) if block[n_key].numel() == 1 else -1.0
        mean, spread = (_plain(each, width) for each in found)
        if mean is None or spread is None or n < 1 or not n < torch.inf or spread.min() < 0:
            raise EditError(
                f"What an earlier edit remembers of '{name}' are not the mean and spread of "
                f"{width} numbers. It was made for another model, or is damaged: make that edit "
                "again."
            )
        return cls(name, matrix.d_in, Moments(n, mean, spread))

    def with_more(self, states: TokenStates) -> "Normaliser":
        """The same with the tokens of a turn."""
        return self._replace(moments=self.moments.with_more(torch.cat(states, 1)))

    @property
    def mean_input(self) -> Tensor:
        """Mean of the inputs so far."""
        return self.moments.mean[: self.d_in]

    def tensors(self) -> dict[str, Tensor]:
        """What is left to later edits."""
        n, mean, spread = self.moments
        count = torch.tensor(float(n), dtype=torch.float64, device="cpu")
        return dict(zip(_keys(self.weight_name), (count, mean, spread), strict=True))

    def normalised(self, states: TokenStates) -> TokenStates:
        """States of which every dimension has about mean 0 and deviation 1, in float64.

        Of n tokens seen with mean μ, the centre is c = (1 − 1/n) μ, so that a token alone is not
        its own centre; and the squared deviation is (Σ (x − c)² + s²) / (n + 1), where s² is the
        mean square of all dimensions of the inputs, or of the gradients: one token of typical size
        is counted beside those seen, and nothing is divided by nearly zero. Among hundreds of
        tokens both are the plain mean and deviation.
        """
        n, mean, spread = self.moments
        squares = (spread / n + mean.square()).split([self.d_in, len(mean) - self.d_in])
        typical = torch.cat([part.mean().expand(len(part)) for part in squares])
        deviation = ((spread + mean.square() / n + typical) / (n + 1)).sqrt()
        apart = torch.cat(states, 1).to(mean) - mean * (1 - 1 / n)
        # Where nothing was ever other than zero there is nothing to divide by.
        found = torch.where(deviation > 0, apart / deviation, 0)
        return TokenStates(*found.split([self.d_in, len(mean) - self.d_in], dim=1))


def _keys(name: str) -> tuple[str, str, str]:
    return f"ultraedit.count.{name}", f"ultraedit.mean.{name}", f"ultraedit.spread.{name}"


def _plain(found: Tensor | None, width: int) -> Tensor | None:
    """Numbers of one vector in float64; None if they are none."""
    if found is None or tuple(found.shape) != (width,) or not found.isfinite().all():
        return None
    return found.cpu().double()
