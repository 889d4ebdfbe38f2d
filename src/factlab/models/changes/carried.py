"""Changes that a forward pass carries, while the model's weights stay as they are.

Inside `carrying` a projection gives what it would with its change, every row of the batch with the
change of its owner. Gradients flow to the changes. What is carried says what comes out:

| | what it is | for |
|---|---|---|
| `ChangeFactors` | W x + left (right x), no changed matrix is ever formed | trained editors, rows |
| `DenseRows` | W x + ΔW x | rows with dense changes |
| `Substitute` | W' x | fine-tuning, layer by layer |
| `ExpertRows` | what the experts give + left (right κ) | rows, of a mixture of experts |
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.errors import InvalidRequestError, counted
from factlab.hooks import Hook, attached
from factlab.interrupts import undone
from factlab.models.budget import GIB, told_of_memory
from factlab.models.changes.algebra import summed
from factlab.models.changes.change import Change
from factlab.models.changes.expert_rows import ExpertRows, experts_forward
from factlab.models.changes.expert_update import ExpertUpdate
from factlab.models.changes.owners import Owners
from factlab.models.language_model import LanguageModel
from factlab.models.products import linear, replaced
from factlab.models.stored import device_of
from factlab.projections import is_plain, is_writer, orientation_of

# W x + b of the projection itself.
Product = Callable[[Tensor], Tensor]


@runtime_checkable
class ProjectionChange(Protocol):
    """What a projection carries."""

    def output(
        self, product: Product, module: Any, inputs: Float[Tensor, "row pos d_in"], owners: Owners
    ) -> Float[Tensor, "row pos d_out"]:
        """What comes out of the projection.

        Args:
            product: W x + b.
            module: the projection.
            inputs: what enters it.
            owners: of the rows.
        """
        ...


# What a forward pass carries at one place: a projection, or the experts of a layer.
Carried = ProjectionChange | ExpertRows


class ChangeFactors(NamedTuple):
    """ΔW of one projection for each of some facts: Σ over tokens of left · rightᵀ.

    Attributes:
        left: on the output's side; zero where a fact has fewer tokens.
        right: on the input's side.
    """

    left: Float[Tensor, "fact token d_out"]
    right: Float[Tensor, "fact token d_in"]

    def dense(self) -> Float[Tensor, "fact d_out d_in"]:
        """The changes as matrices."""
        return self.left.mT @ self.right

    def output(
        self, product: Product, module: Any, inputs: Float[Tensor, "row pos d_in"], owners: Owners
    ) -> Float[Tensor, "row pos d_out"]:
        """See `ProjectionChange`."""
        del module
        plain = product(inputs)
        left, right = self.left.to(inputs.device), self.right.to(inputs.device)
        rows = inputs.to(right.dtype)
        joined = owners.together(rows, len(left))
        if joined is None:
            joined, left, right = rows, owners.of(left), owners.of(right)
        added = torch.bmm(torch.bmm(joined, right.mT), left)
        return plain + added.to(plain.dtype).view_as(plain)


@dataclass(frozen=True, slots=True, eq=False)
class DenseRows:
    """ΔW of one projection for some owners; others have none.

    Attributes:
        deltas: (d_out, d_in) by owner.
    """

    deltas: Mapping[int, Tensor]

    def output(
        self, product: Product, module: Any, inputs: Float[Tensor, "row pos d_in"], owners: Owners
    ) -> Float[Tensor, "row pos d_out"]:
        """See `ProjectionChange`."""
        del module
        plain = product(inputs)
        numbers = torch.tensor(owners.numbers, device=inputs.device)
        output = plain.clone()
        for number in dict.fromkeys(owners.numbers):
            if number in self.deltas:
                delta = self.deltas[number]
                (rows,) = torch.nonzero(numbers == number, as_tuple=True)
                added = inputs[rows].to(delta.dtype) @ delta.T
                output[rows] = plain[rows] + added.to(plain.dtype)
        return output


@dataclass(frozen=True, slots=True, eq=False)
class Substitute:
    """Another weight.

    Attributes:
        weight: out×in; or a stack of such, one for each owner.
    """

    weight: Tensor

    def output(
        self, product: Product, module: Any, inputs: Float[Tensor, "row pos d_in"], owners: Owners
    ) -> Float[Tensor, "row pos d_out"]:
        """See `ProjectionChange`."""
        del product
        weight = self.weight.to(inputs)
        if weight.ndim == 2:
            return linear(inputs, weight, module.bias)
        joined = owners.together(inputs, len(weight))
        if joined is None:
            outputs = torch.bmm(inputs, owners.of(weight).mT)
        else:
            outputs = torch.bmm(joined, weight.mT).view(*inputs.shape[:-1], weight.shape[-2])
        return outputs if module.bias is None else outputs + module.bias


@contextmanager
def carrying(
    lm: LanguageModel, changes: Mapping[str, Carried], owners: Sequence[int] | None
) -> Iterator[None]:
    """Let projections carry changes inside the block. Other threads wait for its end.

    Args:
        lm: the model; its weights stay as they are.
        changes: by parameter name; none leave the model as it is.
        owners: for each row of the batches that are run, the number of its change; None if there is
            one for all rows.

    Raises:
        InvalidRequestError: a batch has another number of rows, or a weight is not that of a plain
            projection.
    """
    whose = Owners((0,), everyone=True) if owners is None else Owners(tuple(owners))
    with lm.lock:
        hooks: list[Hook] = []
        forwards: dict[nn.Module, Callable[..., Tensor]] = {}
        for name, change in changes.items():
            layer = _layer_of(lm, name)
            if layer is not None and not whose.everyone:
                check = partial(_check_rows, len(whose.numbers), lm.streams == "first")
                hooks.append(Hook(layer, check, before=True))
            if isinstance(change, ExpertRows):
                forwards[change.container] = partial(
                    experts_forward, _product_of(change.container), change, whose
                )
                continue
            module = lm.model.get_submodule(name.removesuffix(".weight"))
            if not is_writer(module):
                lm.layout_of(name)  # an error that says what it is
            forwards[module] = partial(_forward, module, _product_of(module), change, whose)
        with attached(hooks), replaced(forwards):
            yield


@contextmanager
def substituted(
    lm: LanguageModel, weights: Mapping[str, Tensor], owners: Sequence[int] | None = None
) -> Iterator[None]:
    """Let projections use other weights inside the block.

    Args:
        lm: the model.
        weights: by parameter name, in the orientation of the parameter. A matrix is for all rows;
            of a stack, every row has its owner's.
        owners: of the rows; none if there are only matrices.
    """
    fused = {name: w for name, w in weights.items() if is_of_experts(lm, name)}
    for name, weight in fused.items():
        if weight.shape != lm.model.get_parameter(name).shape:
            raise InvalidRequestError(
                f"'{name}' holds the matrices of experts, which all rows share. Give one weight "
                f"for all, of shape {tuple(lm.model.get_parameter(name).shape)}."
            )
    carried = {
        name: Substitute(weight if lm.layout_of(name) == "out_in" else weight.mT)
        for name, weight in weights.items()
        if name not in fused
    }
    with carrying(lm, carried, owners), _swapped(lm, fused):
        yield


def as_changed(lm: LanguageModel, change: Change) -> Carried:
    """What a projection carries with one change on it: the changed weight, or ΔW where W is packed.

    Args:
        lm: the model; its weights stay as they are.
        change: of a projection.
    """
    if isinstance(change, ExpertUpdate):
        return _expert_rows(lm, change.weight_name, {0: change})
    module = lm.model.get_submodule(change.weight_name.removesuffix(".weight"))
    if not is_plain(module) and is_writer(module):
        device, dtype = device_of(module), torch.promote_types(lm.dtype, torch.float32)
        if change.thin is None:
            return DenseRows({0: change.matrix(dtype, device)})
        left, right = (factor.to(device, dtype) for factor in change.thin)
        return ChangeFactors(left.T[None], right[None])
    weight = change.patched(lm.model.get_parameter(change.weight_name))
    return Substitute(weight if orientation_of(module) == "out_in" else weight.mT)


def is_of_experts(lm: LanguageModel, name: str) -> bool:
    """Whether a parameter holds the matrices of a layer's experts."""
    layers = lm.layers
    return any(
        layers.mixture(layer) is not None and layers.memory_name(layer) == name
        for layer in range(len(layers))
    )


@contextmanager
def _swapped(lm: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let modules have other parameters inside the block, and their own after it."""
    places = [
        (lm.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
        for name in weights
    ]
    before = [module._parameters[own] for module, own in places]
    with lm.lock, undone(partial(_swap_back, places, before)):
        for (module, own), weight in zip(places, weights.values(), strict=True):
            module._parameters[own] = nn.Parameter(weight.detach(), requires_grad=False)
        yield


def _swap_back(
    places: Sequence[tuple[nn.Module, str]], parameters: Sequence[nn.Parameter | None]
) -> None:
    for (module, own), parameter in zip(places, parameters, strict=True):
        module._parameters[own] = parameter


def owners_of(n_rows: int, n: int) -> list[int]:
    """Owners of rows of which each of n has as many as the next, all in order."""
    return [i * n // n_rows for i in range(n_rows)]


def row_changes(lm: LanguageModel, edits: Sequence[Sequence[Change]]) -> dict[str, Carried]:
    """What rows carry of which each has one of several edits; the edit's number is the owner.

    Args:
        lm: the model, unedited.
        edits: the changes of every edit.

    Raises:
        MemoryLimitError: memory ran out.
    """
    by_weight: dict[str, dict[int, list[Change]]] = {}
    for number, edit in enumerate(edits):
        for change in edit:
            by_weight.setdefault(change.weight_name, {}).setdefault(number, []).append(change)
    with told_of_memory(lm):
        return {
            name: _rows_of(lm, name, {n: summed(c) for n, c in several.items()}, len(edits))
            for name, several in by_weight.items()
        }


def carried_together(lm: LanguageModel, edits: Sequence[Sequence[Change]]) -> list[list[int]]:
    """Numbers of edits, in order, of which rows carry so many at once as memory has room for."""
    width = max(4, lm.dtype.itemsize)
    n_bytes = [
        width * sum(t.numel() for change in edit for t in change.tensors().values())
        for edit in edits
    ]
    room, held = lm.budget.gib * GIB / 4, 0
    parts: list[list[int]] = []
    for number, size in enumerate(n_bytes):
        if not parts or held + size > room:
            parts.append([])
            held = 0
        parts[-1].append(number)
        held += size
    return parts


def first_changed(lm: LanguageModel, changes: Iterable[Change]) -> int:
    """The lowest layer with a weight among those that are changed; 0 if one is outside of all."""
    beginning = f"{lm.layers.anatomy.layers}."
    inside = [change.weight_name.removeprefix(beginning) for change in changes]
    numbers = [name.partition(".")[0] for name in inside]
    return min((int(n) if n.isdecimal() else 0 for n in numbers), default=0)


def _expert_rows(lm: LanguageModel, name: str, changes: Mapping[int, ExpertUpdate]) -> ExpertRows:
    layer = next(i for i in range(lm.n_layers) if lm.layers.memory_name(i) == name)
    mixture = lm.layers.mixture(layer)
    if mixture is None:
        raise InvalidRequestError(f"'{name}' of {lm.name} is not what the edits were made for.")
    return ExpertRows(lm.model.get_submodule(name.rpartition(".")[0]), mixture, changes)


def _rows_of(lm: LanguageModel, name: str, changes: Mapping[int, Change], n_edits: int) -> Carried:
    of_experts = {n: c for n, c in changes.items() if isinstance(c, ExpertUpdate)}
    if of_experts:
        if len(of_experts) < len(changes):
            raise InvalidRequestError(f"'{name}' of {lm.name} is not what the edits were made for.")
        return _expert_rows(lm, name, of_experts)
    device = device_of(lm.model.get_submodule(name.removesuffix(".weight")))
    dtype = torch.promote_types(lm.dtype, torch.float32)
    thin = {n: change.thin for n, change in changes.items() if change.thin is not None}
    if len(thin) < len(changes):
        return DenseRows({n: c.matrix(dtype, device) for n, c in changes.items()})
    d_out, d_in = next(iter(changes.values())).shape
    rank = max(change.rank for change in changes.values())
    left = torch.zeros(n_edits, rank, d_out, dtype=dtype, device=device)
    right = torch.zeros(n_edits, rank, d_in, dtype=dtype, device=device)
    for number, factors in thin.items():  # padded with zeros to the largest rank
        left[number, : changes[number].rank] = factors.left.T.to(left)
        right[number, : changes[number].rank] = factors.right.to(right)
    return ChangeFactors(left, right)


def _layer_of(lm: LanguageModel, name: str) -> nn.Module | None:
    """The decoder layer that a weight is in."""
    number, _, _ = name.removeprefix(f"{lm.layers.anatomy.layers}.").partition(".")
    return lm.layer(int(number)) if number.isdecimal() else None


def _product_of(module: nn.Module) -> Callable[..., Tensor]:
    """What a module computes, whoever may have replaced that before."""
    return vars(module).get("forward") or partial(type(module).forward, module)


def _check_rows(n_rows: int, has_streams: bool, _layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Here, since inside some families' layers all tokens of a batch are in one dimension."""
    if args and (there := args[0].shape[int(has_streams)]) != n_rows:
        raise InvalidRequestError(
            f"The batch has {counted(there, 'row')}, and owners are given for {n_rows}. Say "
            "whose change each row of the batch carries."
        )


def _forward(
    module: nn.Module, product: Product, change: ProjectionChange, owners: Owners, inputs: Tensor
) -> Tensor:
    rows = inputs.reshape(len(owners.numbers), -1, inputs.shape[-1])
    output = change.output(product, module, rows, owners)
    return output.view(*inputs.shape[:-1], output.shape[-1])
