"""Models that differ by low-rank changes, side by side in a batch, with gradients for the changes.

W' = W + left · right, so W'x = Wx + left (right x): no changed matrix is ever formed.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.models.language_model import LanguageModel


class ChangeFactors(NamedTuple):
    """ΔW of one projection for each of some facts: Σ over tokens of left · rightᵀ.

    Attributes:
        left: on the output's side; zero where a fact has fewer tokens.
        right: on the input's side.
    """

    left: Float[Tensor, "fact token d_out"]
    right: Float[Tensor, "fact token d_in"]

    def dense(self) -> Float[Tensor, "fact d_out d_in"]:
        """The changes as matrices."""
        return self.left.mT @ self.right


@contextmanager
def carrying(lm: LanguageModel, changes: Mapping[str, ChangeFactors]) -> Iterator[None]:
    """Let rows carry changes inside the block: equal runs of rows each belong to one fact.

    Args:
        lm: the model; its weights stay as they are.
        changes: by parameter name.
    """
    with ExitStack() as stack:
        for name, change in changes.items():
            module = lm.model.get_submodule(name.removesuffix(".weight"))
            stack.callback(module.register_forward_hook(partial(_add, change)).remove)
        yield


def _add(
    change: ChangeFactors, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    left, right = change.left.to(output.device), change.right.to(output.device)
    # Some families put all tokens of a batch into one dimension.
    inputs = args[0].reshape(len(left), -1, args[0].shape[-1]).to(right.dtype)
    added = torch.bmm(torch.bmm(inputs, right.mT), left)
    return output + added.to(output.dtype).view_as(output)
