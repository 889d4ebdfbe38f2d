"""Matrices of thousands of unknowns, in float64: on the CPU, but worked on where it is quickest.

Closed forms need Cholesky factors, eigenvectors and solutions as wide as an MLP. Operands and
results are on the CPU, where there is room for those of all layers. In a block of `near` a GPU they
are sent there for as long as the work takes, if that is worth the way and if they fit; nothing else
depends on it, but for rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

Square = Float[Tensor, "width width"]
Columns = Float[Tensor, "width column"]

T = TypeVar("T")

# Operations for each number that is sent and fetched, from which on the GPU is quicker: some 10⁹
# numbers a second go over, and a CPU of many cores does some 10¹² operations meanwhile.
WORTH_THE_WAY = 1000

_PLACE: ContextVar[torch.device | None] = ContextVar("place", default=None)


@contextmanager
def near(device: torch.device) -> Iterator[None]:
    """A block in which a device may be used; it makes a difference for GPUs with float64 only."""
    token = _PLACE.set(device if device.type == "cuda" else None)
    try:
        yield
    finally:
        _PLACE.reset(token)


def cholesky(matrix: Square) -> tuple[Square, Int[Tensor, ""]]:
    """Lower factor L of a symmetric A = L Lᵀ; 0, or which leading minor is not positive."""
    width = len(matrix)
    factor, minor = _done(width**3 / 3, torch.linalg.cholesky_ex, matrix)
    return factor, minor


def cholesky_solve(columns: Columns, factor: Square) -> Columns:
    """A⁻¹ of columns, from the factor of A."""
    width, n = columns.shape
    return _done(2 * width**2 * n, torch.cholesky_solve, columns, factor)


def cholesky_inverse(factor: Square) -> Square:
    """A⁻¹, from the factor of A."""
    return _done(2 / 3 * len(factor) ** 3, torch.cholesky_inverse, factor)


def eigh(matrix: Square) -> tuple[Float[Tensor, " width"], Square]:
    """Eigenvalues of a symmetric matrix, ascending, and its eigenvectors (columns)."""
    values, vectors = _done(9 * len(matrix) ** 3, torch.linalg.eigh, matrix)
    return values, vectors


def solve(matrix: Square, columns: Columns) -> Columns:
    """A⁻¹ of columns.

    Raises:
        torch.linalg.LinAlgError: A is singular.
    """
    width, n = columns.shape
    return _done(2 / 3 * width**3 + 2 * width**2 * n, torch.linalg.solve, matrix, columns)


def product(left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]) -> Tensor:
    """A B."""
    return _done(2 * left.numel() * right.shape[1], torch.matmul, left, right)


def _done(operations: int | float, work: Callable[..., T], *operands: Tensor) -> T:
    """Do some work, and have what comes of it on the CPU."""
    place = _PLACE.get()
    if place is None or operations < WORTH_THE_WAY * sum(each.numel() for each in operands):
        return work(*operands)
    try:
        found: Any = work(*(each.to(place) for each in operands))
    except torch.OutOfMemoryError:
        return work(*operands)
    fetched: Any = [each.cpu() for each in found] if isinstance(found, tuple) else found.cpu()
    return fetched
