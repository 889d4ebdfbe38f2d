"""Inputs of projections, and gradients of a loss at their outputs, token by token.

What trained editors and UltraEdit make their edits of. The gradient of a weight is the sum over
tokens of their outer products; it is never formed here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.columns import ALL, Columns
from factlab.families import Layout
from factlab.hooks import Hook, attached
from factlab.models.language_model import LanguageModel


class Matrix(NamedTuple):
    """A projection that is edited.

    Attributes:
        weight_name: its parameter's name.
        layout: orientation of the parameter.
        d_in: width of its input.
        d_out: width of its output.
    """

    weight_name: str
    layout: Layout
    d_in: int
    d_out: int

    @classmethod
    def named(cls, lm: LanguageModel, weight_name: str) -> "Matrix":
        """A model's projection.

        Raises:
            UnsupportedModelError: it is not written by a plain matrix of floats.
        """
        layout, shape = lm.layout_of(weight_name), lm.model.get_parameter(weight_name).shape
        d_out, d_in = shape if layout == "out_in" else shape[::-1]
        return cls(weight_name, layout, d_in, d_out)


class TokenStates(NamedTuple):
    """What a projection has of every token: of rows and places, or one token after the other.

    Attributes:
        inputs: of the projection.
        grads: of the loss, at the projection's output.
    """

    inputs: Float[Tensor, "*token d_in"]
    grads: Float[Tensor, "*token d_out"]


class _Watched:
    """A forward hook that notes a module's input, and adds to its output what has its gradient."""

    inputs: Tensor
    probe: Tensor
    columns: Columns = ALL

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self.columns = self._lm.columns
        self.inputs = args[0].detach().clone()
        # Adding zero changes nothing, and its gradient is that of the output.
        self.probe = torch.zeros_like(output).requires_grad_(True)
        return output + self.probe

    def seen(self, states: Tensor, n_rows: int) -> Float[Tensor, "row pos width"]:
        """States by rows, which some MLPs lay flat, in the columns that were asked for."""
        return self.columns.seen(states.reshape(n_rows, -1, states.shape[-1]))


@torch.inference_mode(False)
def states_and_gradients(
    lm: LanguageModel, matrices: Sequence[Matrix], n_rows: int, loss: Callable[[], Tensor]
) -> Mapping[str, TokenStates]:
    """One forward and one backward pass.

    Args:
        lm: the model, frozen.
        matrices: in blocks that are run for the loss.
        n_rows: of the batch.
        loss: runs these blocks; the sum of what is to have gradients.

    Returns:
        By weight name, of the columns that are run.
    """
    watched = {matrix.weight_name: _Watched(lm) for matrix in matrices}
    hooks = [
        Hook(lm.model.get_submodule(name.removesuffix(".weight")), place)
        for name, place in watched.items()
    ]
    with attached(hooks), torch.enable_grad():
        grads = torch.autograd.grad(loss(), [place.probe for place in watched.values()])
    return {
        name: TokenStates(place.seen(place.inputs, n_rows), place.seen(grad, n_rows))
        for (name, place), grad in zip(watched.items(), grads, strict=True)
    }
