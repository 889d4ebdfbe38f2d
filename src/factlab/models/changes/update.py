"""Two kinds of change of a matrix: two thin factors, or the whole; and the list of all kinds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError
from factlab.families import Layout
from factlab.models.changes.change import FLOATS, Change, Thin
from factlab.models.changes.expert_update import ExpertUpdate


@dataclass(frozen=True, eq=False)
class LowRankUpdate(Change):
    """ΔW = left @ right for one projection, always out×in, whatever the layer's own layout.

    Attributes:
        weight_name: parameter name in the base model.
        layout: of that parameter; decides whether ΔW or its transpose is added.
        left: (d_out, rank).
        right: (rank, d_in).
    """

    kind: ClassVar[str] = "low_rank"
    parts: ClassVar[tuple[str, ...]] = ("left", "right")

    left: Float[Tensor, "d_out rank"]
    right: Float[Tensor, "rank d_in"]

    @classmethod
    def of_tensors(cls, weight_name: str, layout: Layout, tensors: Mapping[str, Tensor]) -> Change:
        """See `Change`."""
        left, right = tensors["left"], tensors["right"]
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise EditError(f"the factors of '{weight_name}' do not fit together")
        return cls(weight_name, layout, left, right)

    def tensors(self) -> dict[str, Tensor]:
        """Both factors."""
        return {"left": self.left, "right": self.right}

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
        """Frobenius norm of ΔW, computed without forming it."""
        left, right = self.left.cpu().double(), self.right.cpu().double()
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())

    @property
    def thin(self) -> Thin:
        """The factors."""
        return Thin(self.left, self.right)

    def matrix(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "d_out d_in"]:
        """ΔW, out×in."""
        return self.left.to(device, dtype) @ self.right.to(device, dtype)


@dataclass(frozen=True, eq=False)
class DenseUpdate(Change):
    """ΔW of one projection as a whole matrix, always out×in, whatever the layer's own layout.

    Attributes:
        weight_name: parameter name in the base model.
        layout: of that parameter; decides whether ΔW or its transpose is added.
        delta: (d_out, d_in), ΔW.
    """

    kind: ClassVar[str] = "dense"
    parts: ClassVar[tuple[str, ...]] = ("delta",)

    delta: Float[Tensor, "d_out d_in"]

    @classmethod
    def of_tensors(cls, weight_name: str, layout: Layout, tensors: Mapping[str, Tensor]) -> Change:
        """See `Change`."""
        if tensors["delta"].ndim != 2:
            raise EditError(f"the change of '{weight_name}' is not a matrix")
        return cls(weight_name, layout, tensors["delta"])

    def tensors(self) -> dict[str, Tensor]:
        """The matrix."""
        return {"delta": self.delta}

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
    def thin(self) -> None:
        """Held as a whole."""

    def matrix(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "d_out d_in"]:
        """ΔW, out×in."""
        return self.delta.to(device, dtype)


# By the name that files give them. A new kind is a class and a line here.
KINDS: dict[str, type[Change]] = {
    kind.kind: kind for kind in (LowRankUpdate, DenseUpdate, ExpertUpdate)
}


def read_change(
    kind: str, weight_name: str, layout: Layout, tensors: Mapping[str, Tensor]
) -> Change:
    """A change from what `tensors` of its class gave.

    Args:
        kind: of `KINDS`.
        weight_name: parameter name in the model.
        layout: of that parameter.
        tensors: by the names of the kind's parts.

    Raises:
        EditError: there is no such kind, or the tensors are not finite floats that fit together.
        KeyError: a part is missing.
    """
    if kind not in KINDS:
        known = ", ".join(f"'{name}'" for name in KINDS)
        raise EditError(
            f"the change of '{weight_name}' is of the kind '{kind}'; this factlab knows {known}"
        )
    for part in KINDS[kind].parts:
        tensor = tensors[part]
        if tensor.dtype is torch.int64 and part in KINDS[kind].whole_numbers:
            continue
        if tensor.dtype not in FLOATS:
            raise EditError(f"the change of '{weight_name}' is of {tensor.dtype}, not of floats")
        if not tensor.isfinite().all():
            raise EditError(f"the change of '{weight_name}' is not finite")
    return KINDS[kind].of_tensors(weight_name, layout, tensors)
