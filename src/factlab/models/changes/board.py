"""Changing weights so that the change can be taken back to the bit, in any order.

A `PatchBoard` keeps, for every weight that is currently changed, its original bits and the patches
on it in order. The live weight is always the original with the active patches applied one after
another, so removing one patch leaves exactly what applying only the others would have given.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True, slots=True, eq=False)
class Application:
    """One time that a patch was put on. The same patch may be on several times."""

    patch: Patch

    @property
    def weight_name(self) -> str:
        """Parameter name in the model."""
        return self.patch.weight_name


@dataclass(slots=True)
class _Patched:
    original: Tensor
    active: list[Application] = field(default_factory=list[Application])


class PatchBoard:
    """The patches that are on a model now."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._weights: dict[str, _Patched] = {}

    @property
    def active(self) -> list[Patch]:
        """All patches that are on, weight by weight."""
        return [applied.patch for entry in self._weights.values() for applied in entry.active]

    def originals(self) -> dict[str, Tensor]:
        """The unpatched values of the weights that are patched now."""
        return {name: entry.original for name, entry in self._weights.items()}

    def add(self, patches: Sequence[Patch]) -> list[Application]:
        """Put patches on: all of them, or none if one does not fit.

        Returns:
            What `remove` takes to take off these, and not the same patches put on at another time.

        Raises:
            EditError: a weight is missing, a result has NaN, or a weight was changed by others.
        """
        planned: dict[str, list[Application]] = {}
        applied = [Application(patch) for patch in patches]
        for each in applied:
            name = each.weight_name
            if name not in planned:
                planned[name] = self._untouched(name)
            planned[name].append(each)
        self._set(planned)
        return applied

    def remove(self, patches: Sequence[Patch | Application]) -> None:
        """Take patches off, whatever was put on since.

        Args:
            patches: what `add` returned; for a patch itself its last application is taken off.

        Raises:
            EditError: one is not on the model, or a weight was changed by others meanwhile.
        """
        planned: dict[str, list[Application]] = {}
        for patch in patches:
            name = patch.weight_name
            if name not in planned:
                planned[name] = self._untouched(name)
            places = [
                i for i, each in enumerate(planned[name]) if each is patch or each.patch is patch
            ]
            if not places:
                raise EditError(
                    f"The edit of '{name}' is not applied to this model (any more). An undo "
                    "function can be called once; applying the edit again gives another."
                )
            del planned[name][places[-1]]
        self._set(planned)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Take all patches off inside the block; on again after it, to the bit."""
        planned = {name: self._untouched(name) for name in self._weights}
        try:
            self._set({name: [] for name in planned})
            yield
        finally:
            self._set(planned)

    def _untouched(self, name: str) -> list[Application]:
        """The patches on a weight, if it is to the bit what they make of the original."""
        if name not in self._weights:
            return []
        active = list(self._weights[name].active)
        if not torch.equal(self._parameter(name), self._patched(name, active)):
            raise EditError(
                f"'{name}' was changed by other code while an edit was applied, so the edit "
                "cannot be undone exactly. Undo edits before training or loading weights."
            )
        return active

    def _set(self, planned: dict[str, list[Application]]) -> None:
        """Give weights these patches; whatever can go wrong does so before the first write."""
        results = {name: self._patched(name, active) for name, active in planned.items()}
        for name, active in planned.items():
            parameter = self._parameter(name)
            if name not in self._weights:
                with torch.inference_mode(False):  # its changes must be countable
                    self._weights[name] = _Patched(parameter.detach().clone())
            with torch.no_grad():
                parameter.copy_(results[name])
            self._weights[name].active = active
            if not active:
                del self._weights[name]

    def _patched(self, name: str, active: list[Application]) -> Tensor:
        entry = self._weights.get(name)
        weight = entry.original if entry is not None else self._parameter(name).detach()
        for applied in active:
            weight = applied.patch.patched(weight)
        if not torch.isfinite(weight).all():
            raise EditError(f"The edited weight '{name}' has NaN or infinite entries.")
        return weight

    def _parameter(self, name: str) -> nn.Parameter:
        try:
            return self._model.get_parameter(name)
        except AttributeError as error:
            raise EditError(f"The model has no weight '{name}'.") from error
