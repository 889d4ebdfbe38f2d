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
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factlab.editing.gradients import Matrix, states_and_gradients
from factlab.editing.trained.states import RowBatch
from factlab.errors import InvalidRequestError, counted
from factlab.models.language_model import LanguageModel
from factlab.models.reading import target_logprobs
from factlab.precision import wide


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
            found.append(Matrix.named(lm, name))
    return tuple(found)


def target_nll_of(lm: LanguageModel, batch: RowBatch) -> Float[Tensor, " row"]:
    """Mean −log P per token of each row's target."""
    n_rows = len(batch.continuations)
    logprobs, counts = target_logprobs(batch.logits(lm), batch.reads.ids, batch.reads.rows, n_rows)
    return -logprobs / counts


def token_gradients(
    lm: LanguageModel, batch: RowBatch, matrices: Sequence[Matrix]
) -> dict[str, OuterProducts]:
    """Gradients of each row's own loss, all rows in one forward and one backward pass.

    Args:
        lm: the model, frozen.
        batch: facts with their targets.
        matrices: in the blocks that the batch is about to enter.
    """
    found = states_and_gradients(
        lm, matrices, len(batch.continuations), partial(_total_nll, lm, batch)
    )
    return {
        name: _gathered(states.inputs, states.grads, batch.is_token)
        for name, states in found.items()
    }


def _total_nll(lm: LanguageModel, batch: RowBatch) -> Float[Tensor, ""]:
    return target_nll_of(lm, batch).sum()


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
