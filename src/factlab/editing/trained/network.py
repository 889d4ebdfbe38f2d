"""What MEND and KE have in common: a network that maps gradients of facts to changes of weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.editing.trained.gradients import Matrix, OuterProducts
from factlab.models.changes.carried import ChangeFactors

# Embedded tokens of each fact's prompt and new target.
Texts = Sequence[Float[Tensor, "_ d_embedding"]]


class EditorNetwork(nn.Module, ABC):
    """A trainable editor.

    Args:
        matrices: what it edits.

    Attributes:
        matrices: as given.
        takes_note: whether it does something with what it may `observe`.
    """

    takes_note: ClassVar[bool] = False

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        super().__init__()
        self.matrices = tuple(matrices)

    @classmethod
    @abstractmethod
    def made(cls, matrices: Sequence[Matrix], d_embedding: int, config: Any) -> "EditorNetwork":
        """An untrained network; see `new_network`. The config is of its own kind."""

    def observe(self, gradients: Mapping[str, OuterProducts]) -> None:
        """Take note of gradients that are trained on; before `forward` sees them."""
        del gradients

    @abstractmethod
    def forward(
        self, gradients: Mapping[str, OuterProducts], texts: Texts
    ) -> dict[str, ChangeFactors]:
        """The change of every matrix, for each of some facts.

        Args:
            gradients: of the facts' losses, by parameter name.
            texts: what the facts say.
        """

    def parameter_groups(self, learning_rate: float, step_rate: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser, with the learning rate of each group.

        Args:
            learning_rate: of the network.
            step_rate: of learned step sizes, if it has any.
        """
        del step_rate
        return [{"params": list(self.parameters()), "lr": learning_rate}]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block; the global random state is left alone."""
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield
