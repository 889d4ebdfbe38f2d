"""A change of one weight: two thin factors, or the whole matrix."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError, InvalidRequestError
from factlab.families import Layout

# What may be lost of the squared norm of a dense change when nobody asked for a rank: so little
# that logits in float32 stay what they were.
_NEGLIGIBLE = 1e-10

# What the numbers of a change may be; 8-bit floats and integers mean nothing without a scale.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class LowRankUpdate:
    """ΔW = left @ right for one projection, always out×in, whatever the layer's own layout.

    Attributes:
        weight_name: parameter name in the base model.
        layout: of that parameter; decides whether ΔW or its transpose is added.
        left: (d_out, rank).
        right: (rank, d_in).
    """

    weight_name: str
    layout: Layout
    left: Float[Tensor, "d_out rank"]
    right: Float[Tensor, "rank d_in"]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """Number of outer products."""
        return self.left.shape[1]

    @property
    def norm(self) -> float:
        """Frobenius norm of ΔW, found without forming it."""
        left, right = self.left.cpu().double(), self.right.cpu().double()
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())

    @property
    def digest(self) -> str:
        """SHA-256 of what the update does."""
        return _digest(f"{self.weight_name}|{self.layout}", self.left, self.right)

    def matrix(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "d_out d_in"]:
        """ΔW, out×in."""
        return self.left.to(device, dtype) @ self.right.to(device, dtype)

    def patched(self, weight: Tensor) -> Tensor:
        """W + ΔW in W's layout, as a new tensor; summed in at least float32, then rounded once.

        Raises:
            EditError: the weight has another shape.
        """
        return _patched(self, weight)


@dataclass(frozen=True, slots=True, eq=False)
class DenseUpdate:
    """ΔW of one projection as a whole matrix, always out×in, whatever the layer's own layout.

    Attributes:
        weight_name: parameter name in the base model.
        layout: of that parameter; decides whether ΔW or its transpose is added.
        delta: (d_out, d_in), ΔW.
    """

    weight_name: str
    layout: Layout
    delta: Float[Tensor, "d_out d_in"]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.delta.shape[0], self.delta.shape[1]

    @property
    def rank(self) -> int:
        """The most that the rank can be."""
        return min(self.shape)

    @property
    def norm(self) -> float:
        """Frobenius norm of ΔW."""
        return float(self.delta.cpu().double().norm())

    @property
    def digest(self) -> str:
        """SHA-256 of what the update does."""
        return _digest(f"{self.weight_name}|{self.layout}|dense", self.delta)

    def matrix(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "d_out d_in"]:
        """ΔW, out×in."""
        return self.delta.to(device, dtype)

    def patched(self, weight: Tensor) -> Tensor:
        """W + ΔW in W's layout, as a new tensor; summed in at least float32, then rounded once.

        Raises:
            EditError: the weight has another shape.
        """
        return _patched(self, weight)


Update = LowRankUpdate | DenseUpdate


class Factors(NamedTuple):
    """Two thin matrices whose product is a change, or nearly; and how much of it they keep.

    Attributes:
        left: (d_out, rank).
        right: (rank, d_in).
        kept_energy: share of the squared Frobenius norm that the product keeps, 0–1.
    """

    left: Float[Tensor, "d_out rank"]
    right: Float[Tensor, "rank d_in"]
    kept_energy: float


def factors(update: Update, rank: int | None = None) -> Factors:
    """Write a change as a product of two thin matrices.

    A low-rank update that fits is given back as it is. Anything else goes through a singular value
    decomposition in float64, which keeps as much of the squared norm as any matrix of that rank.

    Args:
        update: the change.
        rank: at most so many outer products; by default as many as needed to keep all but 1e-10 of
            the squared norm. There is always at least one.

    Raises:
        InvalidRequestError: the rank is below 1.
    """
    if rank is not None and rank < 1:
        raise InvalidRequestError(f"Rank {rank} is too small. Give 1 or more.")
    largest = min(update.shape) if rank is None else rank
    if isinstance(update, LowRankUpdate) and 1 <= update.rank <= largest:
        return Factors(update.left, update.right, 1.0)
    return _decomposed(update.matrix(torch.float64, _CPU), rank, _precision([update]))


def summed(updates: Sequence[Update]) -> Update:
    """Several changes of one weight as one: low rank if all of them are.

    Raises:
        EditError: they are not of one weight, or disagree on its shape or layout.
    """
    first = updates[0]
    name, layout = first.weight_name, first.layout
    if any((u.weight_name, u.layout, u.shape) != (name, layout, first.shape) for u in updates):
        raise EditError(
            f"The updates of '{name}' differ in layout or shape, so they cannot be of one model."
        )
    if len(updates) == 1:
        return first
    dtype = _precision(updates)
    thin = [u for u in updates if isinstance(u, LowRankUpdate)]
    if len(thin) == len(updates):
        left = torch.cat([u.left.to(_CPU, dtype) for u in thin], dim=1)
        right = torch.cat([u.right.to(_CPU, dtype) for u in thin])
        return LowRankUpdate(name, layout, left, right)
    total = torch.zeros(first.shape, dtype=torch.float64, device="cpu")
    for update in updates:
        total += update.matrix(torch.float64, _CPU)
    return DenseUpdate(name, layout, total.to(dtype))


def _patched(update: Update, weight: Tensor) -> Tensor:
    expected = update.shape if update.layout == "out_in" else update.shape[::-1]
    if tuple(weight.shape) != expected:
        raise EditError(
            f"The update of '{update.weight_name}' has shape {expected}, "
            f"but the model's weight has {tuple(weight.shape)}."
        )
    exact = torch.promote_types(weight.dtype, torch.float32)
    delta = update.matrix(exact, weight.device)
    if update.layout == "in_out":
        delta = delta.T
    return (weight.detach().to(exact) + delta).to(weight.dtype)


def _precision(updates: Sequence[Update]) -> torch.dtype:
    """The finest dtype of any of the updates, at least float32."""
    tensors = [u.left if isinstance(u, LowRankUpdate) else u.delta for u in updates]
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


def _decomposed(
    delta: Float[Tensor, "d_out d_in"], rank: int | None, dtype: torch.dtype
) -> Factors:
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    energy = values.square()
    total = float(energy.sum())
    if rank is None:
        # What the first r singular values leave behind, summed from the smallest up.
        left_behind = energy.flip(0).cumsum(0).flip(0)
        rank = int((left_behind > _NEGLIGIBLE * total).sum())
    rank = max(1, min(rank, len(values)))
    kept = min(1.0, float(energy[:rank].sum()) / total) if total else 1.0
    thin_left, thin_right = left[:, :rank] * values[:rank], right[:rank]
    return Factors(thin_left.to(dtype), thin_right.to(dtype), kept)


def _digest(header: str, *tensors: Tensor) -> str:
    digest = hashlib.sha256(header.encode())
    for tensor in tensors:
        digest.update(tensor.cpu().double().contiguous().numpy().data)
    return digest.hexdigest()
