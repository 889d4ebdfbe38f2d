"""Changing weights so that the change can be taken back to the bit, in any order.

A `PatchBoard` keeps, for every weight that is currently changed, its original bits and the patches
on it in order. The live weight is always the original with the active patches applied one after
another, so removing one patch leaves exactly what applying only the others would have given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import EditError


@runtime_checkable
class Patch(Protocol):
    """A change to one weight of a model."""

    @property
    def weight_name(self) -> str:
        """Parameter name in the model."""
        ...

    def patched(self, weight: Tensor) -> Tensor:
        """The changed weight, as a new tensor like the given one."""
        ...


@dataclass(slots=True)
class _Patched:
    original: Tensor
    version: int
    active: list[Patch] = field(default_factory=list[Patch])


class PatchBoard:
    """The patches that are on a model now."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._weights: dict[str, _Patched] = {}

    @property
    def active(self) -> list[Patch]:
        """All patches that are on, weight by weight."""
        return [patch for entry in self._weights.values() for patch in entry.active]

    def originals(self) -> dict[str, Tensor]:
        """The unpatched values of the weights that are patched now."""
        return {name: entry.original for name, entry in self._weights.items()}

    def add(self, patches: Sequence[Patch]) -> None:
        """Put patches on: all of them, or none if one does not fit.

        Raises:
            EditError: a weight is missing, a result has NaN, or a weight was changed by others.
        """
        before = {name: list(entry.active) for name, entry in self._weights.items()}
        try:
            for patch in patches:
                parameter = self._parameter(patch.weight_name)
                if patch.weight_name not in self._weights:
                    original = parameter.detach().clone()
                    self._weights[patch.weight_name] = _Patched(original, parameter._version)
                self._check_untouched(patch.weight_name)
                self._set(patch.weight_name, [*self._weights[patch.weight_name].active, patch])
        except Exception:
            for name in list(self._weights):
                self._set(name, before.get(name, []))
            raise

    def remove(self, patches: Sequence[Patch]) -> None:
        """Take patches off, whatever was put on since.

        Raises:
            EditError: one is not on the model, or a weight was changed by others meanwhile.
        """
        for patch in patches:
            entry = self._weights.get(patch.weight_name)
            if entry is None or not any(active is patch for active in entry.active):
                raise EditError(f"The edit of '{patch.weight_name}' is not applied to this model.")
            self._check_untouched(patch.weight_name)
        for patch in patches:
            active = self._weights[patch.weight_name].active
            last = max(i for i, other in enumerate(active) if other is patch)
            self._set(patch.weight_name, active[:last] + active[last + 1 :])

    def _set(self, name: str, active: list[Patch]) -> None:
        entry, parameter = self._weights[name], self._parameter(name)
        weight = entry.original
        for patch in active:
            weight = patch.patched(weight)
        if not torch.isfinite(weight).all():
            raise EditError(f"The edited weight '{name}' has NaN or infinite entries.")
        with torch.no_grad():
            parameter.copy_(weight)
        entry.active, entry.version = active, parameter._version
        if not active:
            del self._weights[name]

    def _parameter(self, name: str) -> nn.Parameter:
        try:
            return self._model.get_parameter(name)
        except AttributeError as error:
            raise EditError(f"The model has no weight '{name}'.") from error

    def _check_untouched(self, name: str) -> None:
        if self._parameter(name)._version != self._weights[name].version:
            raise EditError(
                f"'{name}' was changed by other code while an edit was applied, so the edit "
                "cannot be undone exactly. Undo edits before training or loading weights."
            )
