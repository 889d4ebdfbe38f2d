"""`Change`: what every change of a model can do, whatever it is made of.

A change is a thing of its own and never changes itself. It can be

* written: `kind`, `weight_name`, `layout` and `tensors()` are all there is to save, and
  `of_tensors` of its class makes it again; `digest` tells it from every other;
* put on in place: `patched` gives the changed weight, which the board (`board.py`) writes;
* carried by a forward pass that leaves the weights alone: `thin` or `matrix` is what `carried.py`
  multiplies inputs with.

All changes so far are of one weight. One that is not, such as an editor with a memory beside the
model, acts at a site of the model instead: it would say which (`Site` in place of `weight_name`),
have `transform(inputs, output, owners)` in place of `patched`, and the board would keep it in the
same order as the others and hook it in where they write. `digest`, `norm` and `tensors` stay.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError
from factlab.families import Layout

# What the numbers of a change may be; 8-bit floats and integers mean nothing without a scale.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Entries of a weight that are summed at once: what fits into a cache, or keeps a GPU busy.
_ENTRIES_ON_CPU, _ENTRIES = 2**18, 2**24


class Thin(NamedTuple):
    """Two thin matrices whose product is a change.

    Attributes:
        left: (d_out, rank).
        right: (rank, d_in).
    """

    left: Float[Tensor, "d_out rank"]
    right: Float[Tensor, "rank d_in"]


@dataclass(frozen=True, eq=False)
class Change(ABC):
    """A change ΔW of the weight of one projection; ΔW is out×in, whatever the layer's own layout.

    Attributes:
        kind: how files call changes of this class.
        parts: names of the tensors that it is made of.
        whole_numbers: which of them are no floats.
        weight_name: parameter name in the model.
        layout: of that parameter; decides whether ΔW or its transpose is added.
    """

    kind: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    whole_numbers: ClassVar[tuple[str, ...]] = ()

    weight_name: str
    layout: Layout

    @classmethod
    @abstractmethod
    def of_tensors(
        cls, weight_name: str, layout: Layout, tensors: Mapping[str, Tensor]
    ) -> "Change":
        """What `tensors` gave as a change again.

        Raises:
            EditError: they do not fit together.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by the names of `parts`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """The most that the rank of ΔW can be."""

    @property
    @abstractmethod
    def norm(self) -> float:
        """Frobenius norm of ΔW."""

    @property
    @abstractmethod
    def thin(self) -> Thin | None:
        """ΔW as a product of two thin matrices, if that is how it is held."""

    @abstractmethod
    def matrix(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "d_out d_in"]:
        """ΔW."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers; all are of one."""
        return next(iter(self.tensors().values())).dtype

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the change does; made once.

        Shapes need no part in it: among changes that fit one weight, the number of entries tells
        the rank.
        """
        kind = "" if self.kind == "low_rank" else f"|{self.kind}"  # the first kind there was
        made = hashlib.sha256(f"{self.weight_name}|{self.layout}{kind}".encode())
        for tensor in self.tensors().values():
            made.update(tensor.detach().cpu().double().contiguous().numpy().data)
        return made.hexdigest()

    def patched(self, weight: Tensor) -> Tensor:
        """W + ΔW in W's layout, as a new tensor.

        Both the product and the sum are in float64 and rounded once, to W's dtype, so that neither
        autocast, TF32 nor the number of threads has a say in them. (On a device without float64,
        in float32.)

        Raises:
            EditError: the weight has another shape.
        """
        expected = self.shape if self.layout == "out_in" else self.shape[::-1]
        if tuple(weight.shape) != expected:
            raise EditError(
                f"The update of '{self.weight_name}' has shape {expected}, "
                f"but the model's weight has {tuple(weight.shape)}."
            )
        return added(weight.detach(), *self._product(weight.device))

    def _product(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """ΔW in the layout of W: two factors, or itself and None."""
        flips = self.layout == "in_out"
        if self.thin is None:
            delta = self.matrix(self.dtype, device)
            return (delta.T if flips else delta), None
        left, right = self.thin
        return (right.T, left.T) if flips else (left, right)


def added(
    weight: Float[Tensor, "rows columns"], rows: Tensor, columns: Tensor | None
) -> Float[Tensor, "rows columns"]:
    """W plus a product, or a matrix if there is no second factor; see `Change.patched`."""
    device = weight.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    if columns is not None:
        rows, columns = rows.to(device, wide), columns.to(device, wide)
    entries = _ENTRIES_ON_CPU if device.type == "cpu" else _ENTRIES
    step = max(1, entries // max(1, weight.shape[1]))
    result = torch.empty_like(weight)
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(weight), step):
            part = slice(start, start + step)
            delta = rows[part].to(wide)
            result[part] = weight[part] + (delta if columns is None else delta @ columns)
    return result
