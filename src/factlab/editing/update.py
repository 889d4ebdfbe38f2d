"""A low-rank change of one weight."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.architectures import Layout
from factlab.errors import EditError


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
    def rank(self) -> int:
        """Number of outer products."""
        return self.left.shape[1]

    @property
    def norm(self) -> float:
        """Frobenius norm of ΔW, found without forming it."""
        left, right = self.left.double(), self.right.double()
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())

    @property
    def digest(self) -> str:
        """SHA-256 of what the update does."""
        digest = hashlib.sha256(f"{self.weight_name}|{self.layout}".encode())
        for factor in (self.left, self.right):
            digest.update(factor.double().contiguous().cpu().numpy().data)
        return digest.hexdigest()

    def patched(self, weight: Tensor) -> Tensor:
        """W + ΔW in W's layout, as a new tensor; summed in at least float32, then rounded once."""
        shape = (self.left.shape[0], self.right.shape[1])
        expected = shape if self.layout == "out_in" else shape[::-1]
        if tuple(weight.shape) != expected:
            raise EditError(
                f"The update of '{self.weight_name}' has shape {expected}, "
                f"but the model's weight has {tuple(weight.shape)}."
            )
        exact = torch.promote_types(weight.dtype, torch.float32)
        delta = self.left.to(weight.device, exact) @ self.right.to(weight.device, exact)
        if self.layout == "in_out":
            delta = delta.T
        return (weight.detach().to(exact) + delta).to(weight.dtype)
