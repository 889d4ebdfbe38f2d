"""Changes that stay on a model beside a weight that cannot be written.

A quantised weight has no place for a small change, and an offloaded one is not there to be written.
But its projection gives W x + b, and a hook on it can add ΔW x: the sum in at least float32,
rounded once. What the projection multiplies by is not touched, so that taking the hook off undoes
it exactly.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from factlab.errors import EditError
from factlab.hooks import Hook
from factlab.models.changes.change import Change
from factlab.models.stored import device_of, float_type
from factlab.projections import is_affine, is_carrier, widths_of


@dataclass(frozen=True, slots=True, eq=False)
class Ride:
    """Changes that one projection carries, in order; a board has it in place of a weight.

    Attributes:
        path: of the projection in the model.
        changes: what is added to its output.
    """

    path: str
    changes: tuple[Change, ...] = ()
    _factors: dict[Any, list[tuple[Tensor, ...]]] = field(
        default_factory=dict[Any, list[tuple[Tensor, ...]]]
    )

    nbytes = 0  # of what is copied of the weight

    @classmethod
    def on(cls, model: nn.Module, weight_name: str) -> "Ride | None":
        """An empty one for a weight of a model; None where the weight can be written.

        Raises:
            EditError: the weight is in a module that is no matrix product, so that a change of it
                can be neither written nor carried.
        """
        path = weight_name.removesuffix(".weight")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            return None
        if path == weight_name or not is_carrier(module):
            return None
        if not is_affine(module, device_of(module), float_type(model)):
            raise EditError(
                f"'{weight_name}' cannot be edited: its module ({type(module).__name__}) is no "
                "plain matrix of floats, and what it makes of inputs is no product with one. Load "
                "the model unquantised and whole, and make the edit there."
            )
        return cls(path)

    def with_(self, change: Change, model: nn.Module) -> "Ride":
        """The same with one more.

        Raises:
            EditError: it is for a matrix of another shape, or not finite.
        """
        widths = widths_of(model.get_submodule(self.path))
        if change.shape != widths:
            raise EditError(
                f"The update of '{change.weight_name}' is a change of a matrix of {change.shape} "
                f"(out, in), but the model's is {widths}."
            )
        if not all(tensor.isfinite().all() for tensor in change.tensors().values()):
            raise EditError(f"The edit of '{change.weight_name}' has NaN or infinite entries.")
        return Ride(self.path, (*self.changes, change))

    def place(self, model: nn.Module) -> None:
        """Put this on its projection in place of what it carries now."""
        module = model.get_submodule(self.path)
        for other in riding(module):
            other.leave(module)
        if self.changes:
            # Before others' hooks, so that they see the output of the changed projection.
            module.register_forward_hook(partial(_output, self), prepend=True)

    def leave(self, module: nn.Module) -> None:
        """Take it off."""
        for function in list(module._forward_hooks.values()):
            if isinstance(function, partial) and function.args[:1] == (self,):
                Hook(module, function).detach()

    def check(self, model: nn.Module) -> None:
        """Refuse a projection that carries something else.

        Raises:
            EditError: says so.
        """
        if riding(model.get_submodule(self.path)) != ([self] if self.changes else []):
            raise EditError(
                f"The edit that '{self.path}' carried was taken off by other code, or another was "
                "put on. Undo edits before changing a model's hooks."
            )

    def added(self, inputs: Tensor) -> Tensor:
        """ΔW x of all changes, in at least float32."""
        wide = torch.promote_types(inputs.dtype, torch.float32)
        key = (inputs.device, wide)
        if key not in self._factors:
            self._factors[key] = [_factors(change, wide, inputs.device) for change in self.changes]
        with torch.autocast(inputs.device.type, enabled=False):
            x = inputs.to(wide)
            parts: list[Tensor] = []
            for factors in self._factors[key]:
                y = x
                for factor in factors:
                    y = y @ factor
                parts.append(y)
            return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def riding(module: nn.Module) -> list[Ride]:
    """What a projection carries."""
    functions = module._forward_hooks.values()
    return [f.args[0] for f in functions if isinstance(f, partial) and f.func is _output]


def changed(weight: Tensor | Ride, change: Change, model: nn.Module) -> Tensor | Ride:
    """A weight, or what is carried in its place, with one more change."""
    return weight.with_(change, model) if isinstance(weight, Ride) else change.patched(weight)


def _factors(change: Change, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """What inputs are multiplied with, one after the other."""
    with torch.inference_mode(False):
        if change.thin is None:
            return (change.matrix(dtype, device).T,)
        left, right = (factor.to(device, dtype) for factor in change.thin)
        return right.T, left.T


def _output(ride: Ride, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """What a projection gives, and what its changes add to it."""
    added = ride.added(args[0].to(output.device))
    return (output.to(added.dtype) + added).to(output.dtype)
