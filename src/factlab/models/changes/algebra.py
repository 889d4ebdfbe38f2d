"""Changes of one weight added up, and written as products of thin matrices."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError, InvalidRequestError
from factlab.models.changes.change import Change, Thin
from factlab.models.changes.expert_update import ExpertUpdate, expert_sum
from factlab.models.changes.update import DenseUpdate, LowRankUpdate

# What may be lost of the squared norm of a dense change when nobody asked for a rank: so little
# that logits in float32 stay what they were.
_NEGLIGIBLE = 1e-10

_CPU = torch.device("cpu")


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


def factors(change: Change, rank: int | None = None) -> Factors:
    """Write a change as a product of two thin matrices.

    A change that is held so and fits is given back as it is. Anything else goes through a singular
    value decomposition in float64, which keeps as much of the squared norm as any matrix of that
    rank (Eckart and Young, 1936). Of two thin matrices only their small core is decomposed: with
    left = Q R and rightᵀ = P S, it is R Sᵀ.

    Args:
        change: of a weight.
        rank: at most so many outer products; by default as many as needed to keep all but 1e-10 of
            the squared norm. There is always at least one.

    Raises:
        InvalidRequestError: the rank is below 1.
    """
    if rank is not None and rank < 1:
        raise InvalidRequestError(f"Rank {rank} is too small. Give 1 or more.")
    largest = min(change.shape) if rank is None else rank
    dtype = _precision([change])
    if change.thin is None or change.rank == 0:
        return _cut(_decomposed(change.matrix(torch.float64, _CPU)), rank, dtype)
    if change.rank <= largest:
        return Factors(*change.thin, 1.0)
    return _cut(_decomposed_thin(change.thin), rank, dtype)


def summed(changes: Sequence[Change]) -> Change:
    """Several changes of one weight as one: low rank if all of them are.

    Raises:
        EditError: they are not of one weight, or disagree on its shape or layout.
    """
    first = changes[0]
    name, layout = first.weight_name, first.layout
    if any((c.weight_name, c.layout, c.shape) != (name, layout, first.shape) for c in changes):
        raise EditError(
            f"The updates of '{name}' differ in layout or shape, so they cannot be of one model."
        )
    if len(changes) == 1:
        return first
    of_experts = [change for change in changes if isinstance(change, ExpertUpdate)]
    if isinstance(first, ExpertUpdate) and len(of_experts) == len(changes):
        return expert_sum(first, of_experts)
    if of_experts:
        raise EditError(f"The updates of '{name}' are of one matrix and of several.")
    dtype = _precision(changes)
    thin = [change.thin for change in changes if change.thin is not None]
    if len(thin) == len(changes):
        left = torch.cat([factor.left.to(_CPU, dtype) for factor in thin], dim=1)
        right = torch.cat([factor.right.to(_CPU, dtype) for factor in thin])
        return LowRankUpdate(name, layout, left, right)
    total = torch.zeros(first.shape, dtype=torch.float64, device="cpu")
    for change in changes:
        total += change.matrix(torch.float64, _CPU)
    return DenseUpdate(name, layout, total.to(dtype))


def _precision(changes: Sequence[Change]) -> torch.dtype:
    """The finest dtype of any of the changes, at least float32."""
    return functools.reduce(torch.promote_types, (c.dtype for c in changes), torch.float32)


class _Decomposed(NamedTuple):
    """left · diag(values) · right, with the largest of the values first, in float64."""

    left: Float[Tensor, "d_out most"]
    values: Float[Tensor, " most"]
    right: Float[Tensor, "most d_in"]


def _decomposed(delta: Float[Tensor, "d_out d_in"]) -> _Decomposed:
    return _Decomposed(*torch.linalg.svd(delta, full_matrices=False))


def _decomposed_thin(thin: Thin) -> _Decomposed:
    """The same of a product of thin matrices, without forming it."""
    left, left_core = torch.linalg.qr(thin.left.to(_CPU, torch.float64))
    right, right_core = torch.linalg.qr(thin.right.to(_CPU, torch.float64).T)
    core = _decomposed(left_core @ right_core.T)
    return _Decomposed(left @ core.left, core.values, core.right @ right.T)


def _cut(whole: _Decomposed, rank: int | None, dtype: torch.dtype) -> Factors:
    """The largest singular values, as many as a rank allows or are worth keeping."""
    left, values, right = whole
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
