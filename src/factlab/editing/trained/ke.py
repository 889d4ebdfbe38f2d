"""KE: a network that reads the fact and gates its gradient (De Cao et al. 2021, section 4).

Adapted to decoders as in the comparisons of the MEND and ROME papers. For each matrix:

| paper | here |
|---|---|
| LSTM over ⟨x, y, a⟩, then a feed-forward network: h | `Ke.encoded`: of prompt and new target |
| α, β, γ, δ, η, from h | columns and rows of both outer products, and the gate |
| a = softmax(α̂)·βᵀ, b = softmax(γ̂)·δᵀ | rank-one matrices; the softmax runs over outputs |
| ΔW = σ(η) · (∇W ⊙ a + b), equation 4 | `ChangeFactors` |

∇W = Σ v uᵀ over tokens, so ∇W ⊙ (r cᵀ) = Σ (v ⊙ r)(u ⊙ c)ᵀ: a fact of t tokens gives a change of
rank t + 1, and no matrix is formed. The token embeddings are the model's own and stay as they are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence

from factlab.editing.trained.configs import KeConfig
from factlab.editing.trained.gradients import Matrix, OuterProducts
from factlab.editing.trained.network import EditorNetwork, Texts, seeded
from factlab.models.changes.carried import ChangeFactors


class Conditions(NamedTuple):
    """What a matrix's network makes of each fact.

    Attributes:
        gate: max_scale · σ(η).
        a_rows: softmax over outputs; a = a_rows · a_columnsᵀ multiplies the gradient.
        a_columns: over inputs.
        b_rows: softmax over outputs; b = b_rows · b_columnsᵀ is added.
        b_columns: over inputs.
    """

    gate: Float[Tensor, " fact"]
    a_rows: Float[Tensor, "fact d_out"]
    a_columns: Float[Tensor, "fact d_in"]
    b_rows: Float[Tensor, "fact d_out"]
    b_columns: Float[Tensor, "fact d_in"]


class Ke(EditorNetwork):
    """The encoder and a network for every matrix.

    Args:
        matrices: what is edited.
        d_embedding: width of the model's token embeddings.
        config: see `KeConfig`.
    """

    @classmethod
    def made(cls, matrices: Sequence[Matrix], d_embedding: int, config: KeConfig) -> "Ke":
        """See `EditorNetwork`."""
        return cls(matrices, d_embedding, config)

    def __init__(self, matrices: Sequence[Matrix], d_embedding: int, config: KeConfig) -> None:
        super().__init__(matrices)
        hidden, condition = config.hidden, config.condition
        self._max_scale = config.max_scale
        plain = {"dtype": torch.float32, "device": "cpu"}  # whatever torch makes by default
        with seeded(config.seed):
            self.lstm = nn.LSTM(d_embedding, hidden, batch_first=True, bidirectional=True, **plain)
            self.encoder = nn.Sequential(nn.Linear(2 * hidden, condition, **plain), nn.Tanh())
            self.conditioners = nn.ModuleList(
                nn.Sequential(
                    weight_norm(nn.Linear(condition, hidden, **plain)),
                    nn.Tanh(),
                    weight_norm(nn.Linear(hidden, 2 * (m.d_in + m.d_out) + 1, **plain)),
                )
                for m in self.matrices
            )

    def encoded(self, texts: Texts) -> Float[Tensor, "fact condition"]:
        """Each text as one vector: where the LSTM ends in either direction, and a tanh layer."""
        dtype = next(self.parameters()).dtype
        with torch.device("cpu"):  # where the lengths that are made inside must lie
            packed = pack_sequence([text.to(dtype) for text in texts], enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.encoder(torch.cat([last[0], last[1]], -1))

    def conditions(self, texts: Texts) -> dict[str, Conditions]:
        """What every matrix's network makes of some facts."""
        encoded = self.encoded(texts)
        found: dict[str, Conditions] = {}
        for matrix, network in zip(self.matrices, self.conditioners, strict=True):
            sizes = [matrix.d_out, matrix.d_in, matrix.d_out, matrix.d_in, 1]
            a_rows, a_columns, b_rows, b_columns, eta = network(encoded).split(sizes, -1)
            found[matrix.weight_name] = Conditions(
                self._max_scale * eta[:, 0].sigmoid(),
                a_rows.softmax(-1), a_columns, b_rows.softmax(-1), b_columns,
            )  # fmt: skip
        return found

    def forward(
        self, gradients: Mapping[str, OuterProducts], texts: Texts
    ) -> dict[str, ChangeFactors]:
        """See `EditorNetwork.forward`."""
        return {
            name: _gated(gradients[name], conditions)
            for name, conditions in self.conditions(texts).items()
        }


def _gated(gradient: OuterProducts, conditions: Conditions) -> ChangeFactors:
    """σ(η)(∇W ⊙ a + b), the added b as one more token."""
    gate, a_rows, a_columns, b_rows, b_columns = conditions
    left = torch.cat([gradient.grads * a_rows[:, None], b_rows[:, None]], 1)
    right = torch.cat([gradient.inputs * a_columns[:, None], b_columns[:, None]], 1)
    return ChangeFactors(left * gate[:, None, None], right)
