"""A change of the matrices of some experts, which are kept in one parameter."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.errors import EditError
from factlab.families import Layout
from factlab.models.changes.change import Change, Thin, added


@dataclass(frozen=True, eq=False)
class ExpertUpdate(Change):
    """ΔW_e = left @ right_e for some experts e of a parameter (expert, …, …); others stay.

    All share `left`: what the closed forms add to the output is the same whichever expert adds it.

    Attributes:
        weight_name: parameter name in the base model.
        layout: of each expert's matrix in it; decides whether ΔW_e or its transpose is added.
        experts: their numbers, ascending, (some,).
        left: (d_out, rank).
        right: (some, rank, d_in).
    """

    kind: ClassVar[str] = "experts"
    parts: ClassVar[tuple[str, ...]] = ("experts", "left", "right")
    whole_numbers: ClassVar[tuple[str, ...]] = ("experts",)

    experts: Int[Tensor, " some"]
    left: Float[Tensor, "d_out rank"]
    right: Float[Tensor, "some rank d_in"]

    @classmethod
    def of_tensors(cls, weight_name: str, layout: Layout, tensors: Mapping[str, Tensor]) -> Change:
        """See `Change`."""
        experts, left, right = (tensors[part] for part in cls.parts)
        numbers = experts.tolist() if experts.ndim == 1 and experts.dtype is torch.int64 else [-1]
        if not numbers or numbers != sorted(set(numbers)) or min(numbers) < 0:
            raise EditError(f"the change of '{weight_name}' does not number its experts")
        fits = left.ndim == 2 and right.ndim == 3 and left.shape[1] == right.shape[1]
        if not fits or len(right) != len(numbers) or left.dtype != right.dtype:
            raise EditError(f"the factors of '{weight_name}' do not fit together")
        return cls(weight_name, layout, experts, left, right)

    def tensors(self) -> dict[str, Tensor]:
        """Numbers and factors."""
        return {"experts": self.experts, "left": self.left, "right": self.right}

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.left.dtype

    @property
    def numbers(self) -> list[int]:
        """Of the experts that are changed."""
        return self.experts.tolist()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the change does; with shapes, since the tensors have three sizes."""
        made = hashlib.sha256(f"{self.weight_name}|{self.layout}|{self.kind}".encode())
        for tensor in self.tensors().values():
            made.update(f"|{tuple(tensor.shape)}|".encode())
            made.update(tensor.detach().cpu().double().contiguous().numpy().data)
        return made.hexdigest()

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of each expert."""
        return self.left.shape[0], self.right.shape[2]

    @property
    def rank(self) -> int:
        """The most that the rank of any ΔW_e can be."""
        return self.left.shape[1]

    @property
    def norm(self) -> float:
        """Frobenius norm of all ΔW_e together, computed without forming them."""
        return self.norms.square().sum().sqrt().item()

    @property
    def norms(self) -> Float[Tensor, " some"]:
        """Of each ΔW_e, float64 on the CPU."""
        left, right = self.left.cpu().double(), self.right.cpu().double()
        return ((left.T @ left) * (right @ right.mT)).sum((1, 2)).clamp(min=0).sqrt()

    @property
    def thin(self) -> None:
        """No two matrices: `of` has them for each expert."""

    def of(self, expert: int) -> Thin | None:
        """ΔW_e of one expert; None if it stays as it is."""
        if expert not in self.numbers:
            return None
        return Thin(self.left, self.right[self.numbers.index(expert)])

    def matrix(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "d_out d_in"]:
        """There is none that is all of it.

        Raises:
            EditError: always.
        """
        del dtype, device
        raise EditError(
            f"The change of '{self.weight_name}' is of {len(self.experts)} experts' matrices, not "
            "of one matrix. Apply the edit, or export it as a checkpoint (merge_into)."
        )

    def patched(self, weight: Tensor) -> Tensor:
        """The parameter with W_e + ΔW_e, as a new tensor; see `Change.patched`.

        Raises:
            EditError: the parameter has another shape, or fewer experts.
        """
        expected = self.shape if self.layout == "out_in" else self.shape[::-1]
        fits = weight.ndim == 3 and tuple(weight.shape[1:]) == expected
        if not fits or self.numbers[-1] >= len(weight):
            raise EditError(
                f"The update of '{self.weight_name}' is for experts up to {self.numbers[-1]} of "
                f"shape {expected}, but the model's weight has {tuple(weight.shape)}."
            )
        result = weight.detach().clone()
        for place, expert in enumerate(self.numbers):
            left, right = self.left, self.right[place]
            factors = (right.T, left.T) if self.layout == "in_out" else (left, right)
            result[expert] = added(result[expert], *factors)
        return result


def expert_sum(first: ExpertUpdate, changes: list[ExpertUpdate]) -> ExpertUpdate:
    """Several changes of one parameter as one: their factors side by side, zero where none is."""
    numbers = sorted({number for change in changes for number in change.numbers})
    dtype = torch.float32
    for change in changes:
        dtype = torch.promote_types(dtype, change.dtype)
    rank, (_, d_in) = sum(change.rank for change in changes), first.shape
    right = torch.zeros(len(numbers), rank, d_in, dtype=dtype, device="cpu")
    start = 0
    for change in changes:
        places = torch.tensor([numbers.index(n) for n in change.numbers], device="cpu")
        right[places, start : start + change.rank] = change.right.to(right)
        start += change.rank
    left = torch.cat([change.left.to("cpu", dtype) for change in changes], dim=1)
    experts = torch.tensor(numbers, device="cpu")
    return ExpertUpdate(first.weight_name, first.layout, experts, left, right)
