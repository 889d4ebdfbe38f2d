"""Differently edited models in one forward pass: every row of a batch carries its own edit.

An edit changes projections: W' = W + ΔW, so W'x = Wx + ΔW x. The product with W is the same for all
rows; what the edit adds is a product with two thin factors (or, for a dense change, one matrix per
edit), row by row. The model's weights stay as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factlab.models.changes.algebra import summed
from factlab.models.changes.change import Change
from factlab.models.changes.update import LowRankUpdate
from factlab.models.language_model import LanguageModel


class RowEdits:
    """Edits of which every row of a batch has one; active inside `active()`.

    Args:
        lm: the model, unedited.
        edits: the changes of every edit; none at all is the unedited model.

    Attributes:
        owners: for each row of the batch that runs next, the number of its edit. Set it before
            every forward pass.
    """

    def __init__(self, lm: LanguageModel, edits: Sequence[Sequence[Change]]) -> None:
        self._lm = lm
        self.owners: Sequence[int] = ()
        by_weight: dict[str, dict[int, list[Change]]] = {}
        for number, edit in enumerate(edits):
            for update in edit:
                by_weight.setdefault(update.weight_name, {}).setdefault(number, []).append(update)
        self._changes = [
            (_module_of(lm, name), _change(lm, name, updates, len(edits)))
            for name, updates in by_weight.items()
        ]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let rows carry their edits inside the block."""
        handles = [
            module.register_forward_hook(self._adding(change)) for module, change in self._changes
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adding(self, change: "_Change") -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            n_rows = len(self.owners)
            # Some families put all tokens of a batch into one dimension.
            inputs = args[0].reshape(n_rows, -1, args[0].shape[-1])
            owners = torch.tensor(self.owners, device=inputs.device)
            return output + change.of(inputs, owners).to(output).view_as(output)

        return hook


class _Change(ABC):
    """What the edits add to the output of one projection."""

    @abstractmethod
    def of(
        self, inputs: Float[Tensor, "row pos d_in"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row pos d_out"]:
        """Of rows, each with the change of its owner."""


class _LowRankChange(_Change):
    """ΔW x = left (right x), factors padded with zeros to the largest rank."""

    def __init__(
        self, lm: LanguageModel, name: str, updates: dict[int, LowRankUpdate], n: int
    ) -> None:
        d_out, d_in = next(iter(updates.values())).shape
        rank = max(update.rank for update in updates.values())
        weight = lm.model.get_parameter(name)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self._left = torch.zeros(n, rank, d_out, dtype=dtype, device=weight.device)
        self._right = torch.zeros(n, d_in, rank, dtype=dtype, device=weight.device)
        for number, update in updates.items():
            self._left[number, : update.rank] = update.left.T.to(weight.device, dtype)
            self._right[number, :, : update.rank] = update.right.T.to(weight.device, dtype)

    def of(
        self, inputs: Float[Tensor, "row pos d_in"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row pos d_out"]:
        return inputs.to(self._left.dtype) @ self._right[owners] @ self._left[owners]


class _DenseChange(_Change):
    """ΔW x, the rows of each edit in turn."""

    def __init__(self, lm: LanguageModel, name: str, updates: dict[int, Change]) -> None:
        weight = lm.model.get_parameter(name)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self._deltas = {n: u.matrix(dtype, weight.device).T for n, u in updates.items()}
        self._d_out = next(iter(updates.values())).shape[0]

    def of(
        self, inputs: Float[Tensor, "row pos d_in"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row pos d_out"]:
        dtype = next(iter(self._deltas.values())).dtype
        added = torch.zeros(*inputs.shape[:-1], self._d_out, dtype=dtype, device=inputs.device)
        for number, delta in self._deltas.items():
            (rows,) = torch.nonzero(owners == number, as_tuple=True)
            if len(rows):
                added[rows] = inputs[rows].to(dtype) @ delta
        return added


def _change(
    lm: LanguageModel, name: str, several: dict[int, list[Change]], n_edits: int
) -> _Change:
    updates = {number: summed(own) for number, own in several.items()}
    thin = {n: u for n, u in updates.items() if isinstance(u, LowRankUpdate)}
    if len(thin) == len(updates):
        return _LowRankChange(lm, name, thin, n_edits)
    return _DenseChange(lm, name, updates)


def _module_of(lm: LanguageModel, weight_name: str) -> nn.Module:
    lm.layout_of(weight_name)  # a plain projection, or an error that says what it is
    return lm.model.get_submodule(weight_name.removesuffix(".weight"))
