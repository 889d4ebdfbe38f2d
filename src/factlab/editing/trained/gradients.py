"""The gradient of a fact's loss at projections, as a sum of outer products over tokens.

| paper (MEND, section 3.1) | here |
|---|---|
| W_ℓ, a matrix that is edited | `Matrix` |
| u_ℓ, input of the matrix at a token | `OuterProducts.inputs` |
| δ_{ℓ+1}, gradient of the loss at its output there | `OuterProducts.grads` |
| ∇W_ℓ = Σ δ_{ℓ+1} u_ℓᵀ | `OuterProducts.dense()` |

Nothing of the size of a matrix is formed: a fact of t tokens has a gradient of rank t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from factlab.editing.trained.states import RowBatch
from factlab.errors import InvalidRequestError, counted
from factlab.families import Layout
from factlab.hooks import Hook, attached
from factlab.models.language_model import LanguageModel
from factlab.models.reading import target_logprobs
from factlab.precision import wide


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


@dataclass(frozen=True, slots=True)
class OuterProducts:
    """Σ over tokens of grad · inputᵀ, for each of some facts.

    Only tokens whose gradient is not zero are there; facts that have fewer are padded with zeros.

    Attributes:
        inputs: of the projection.
        grads: of the fact's loss, at the projection's output.
        live: False where a fact is padded.
    """

    inputs: Float[Tensor, "fact token d_in"]
    grads: Float[Tensor, "fact token d_out"]
    live: Bool[Tensor, "fact token"]

    def to(self, device: torch.device) -> "OuterProducts":
        """The same on a device."""
        return OuterProducts(self.inputs.to(device), self.grads.to(device), self.live.to(device))

    def dense(self) -> Float[Tensor, "fact d_out d_in"]:
        """The gradients as matrices."""
        return self.grads.mT @ self.inputs


def last_matrices(lm: LanguageModel, n_blocks: int) -> tuple[Matrix, ...]:
    """The MLP's projections in the last blocks, inputs before output.

    Raises:
        InvalidRequestError: the model has fewer blocks.
        UnsupportedModelError: an MLP has no plain projections there.
    """
    if not 1 <= n_blocks <= lm.n_layers:
        raise InvalidRequestError(
            f"n_blocks={n_blocks} is out of range: {lm.name} has {counted(lm.n_layers, 'block')}."
        )
    found: list[Matrix] = []
    for layer in range(lm.n_layers - n_blocks, lm.n_layers):
        for name in (*lm.layers.mlp_inputs(layer), lm.mlp_weight_name(layer)):
            layout, shape = lm.layout_of(name), lm.model.get_parameter(name).shape
            d_out, d_in = shape if layout == "out_in" else shape[::-1]
            found.append(Matrix(name, layout, d_in, d_out))
    return tuple(found)


def target_nll_of(lm: LanguageModel, batch: RowBatch) -> Float[Tensor, " row"]:
    """Mean −log P per token of each row's target."""
    n_rows = len(batch.continuations)
    logprobs, counts = target_logprobs(batch.logits(lm), batch.reads.ids, batch.reads.rows, n_rows)
    return -logprobs / counts


class _Watched:
    """A forward hook that notes a module's input, and adds to its output what has its gradient."""

    inputs: Tensor
    probe: Tensor

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self.inputs = args[0].detach().clone()
        # Adding zero changes nothing, and its gradient is that of the output.
        self.probe = torch.zeros_like(output).requires_grad_(True)
        return output + self.probe


@torch.inference_mode(False)
def token_gradients(
    lm: LanguageModel, batch: RowBatch, matrices: Sequence[Matrix]
) -> dict[str, OuterProducts]:
    """Gradients of each row's own loss, all rows in one forward and one backward pass.

    Args:
        lm: the model, frozen.
        batch: facts with their targets.
        matrices: in the blocks that the batch is about to enter.
    """
    watched = {matrix.weight_name: _Watched() for matrix in matrices}
    hooks = [
        Hook(lm.model.get_submodule(name.removesuffix(".weight")), place)
        for name, place in watched.items()
    ]
    with attached(hooks), torch.enable_grad():
        loss = target_nll_of(lm, batch).sum()
        grads = torch.autograd.grad(loss, [place.probe for place in watched.values()])
    n_rows = len(batch.continuations)
    return {
        m.weight_name: _gathered(
            watched[m.weight_name].inputs.reshape(n_rows, -1, m.d_in),
            grad.reshape(n_rows, -1, m.d_out),
            batch.is_token,
        )
        for m, grad in zip(matrices, grads, strict=True)
    }


def _gathered(
    inputs: Float[Tensor, "fact pos d_in"],
    grads: Float[Tensor, "fact pos d_out"],
    is_token: Bool[Tensor, "fact pos"],
) -> OuterProducts:
    """Leave out tokens that add nothing."""
    counts = (grads != 0).any(-1) & is_token.to(grads.device)
    width = max(1, int(counts.sum(1).max()))
    places = torch.argsort(~counts, dim=1, stable=True)[:, :width, None]
    live = counts.gather(1, places[..., 0])
    dtype = wide(inputs.dtype)

    left, right = (
        states.gather(1, places.expand(-1, -1, states.shape[-1])).to(dtype) * live[..., None]
        for states in (inputs, grads)
    )
    return OuterProducts(left, right, live)
