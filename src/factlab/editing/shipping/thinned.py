"""The changes of an edit as pairs of thin matrices, one for each module, and what a cut loses."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.remembered import Remembered
from factlab.editing.shipping.document import BaseModelInfo, check_base
from factlab.errors import EditError
from factlab.families import ARCHITECTURES
from factlab.models.changes.algebra import Factors, factors, summed
from factlab.models.changes.change import Change
from factlab.models.language_model import LanguageModel
from factlab.projections import widths_of

_KEYS = re.compile(r"keys\.(\d+)")  # of a layer, as closed forms leave them (`protection`)


@dataclass(frozen=True, slots=True)
class ExportedModule:
    """One module of a written adapter.

    Attributes:
        module: its path in the model.
        rank: of what the adapter adds to its weight.
        kept_energy: share of the edit's squared Frobenius norm that the adapter keeps, 0–1.
        full_rank: that an adapter of all of the edit would have here.
        norm: Frobenius norm of all of the edit's change.
        moved: how far the cut moves what the edit adds at the keys that its facts were written at:
            ‖(ΔW − BA) K‖ / ‖ΔW K‖, of Frobenius norms, with a column of K for each fact. None if
            nothing is cut, or the edit remembers no keys of this module.
    """

    module: str
    rank: int
    kept_energy: float
    full_rank: int
    norm: float
    moved: float | None = None


@dataclass(frozen=True, slots=True)
class ExportedAdapter:
    """What was written, module by module."""

    modules: tuple[ExportedModule, ...]

    @property
    def rank(self) -> int:
        """The largest of its modules' ranks."""
        return max(module.rank for module in self.modules)

    @property
    def kept_energy(self) -> float:
        """Share of the squared Frobenius norm of all modules' changes that is kept, 0–1."""
        total = math.fsum(module.norm**2 for module in self.modules)
        kept = math.fsum(module.kept_energy * module.norm**2 for module in self.modules)
        return min(1.0, kept / total) if total else 1.0


class Thinned(NamedTuple):
    """An edit as an adapter adds it.

    Attributes:
        factors: left (d_out, rank) and right (rank, d_in) of each module, in order of their names.
        report: how much of the edit they are.
        layout: of the weights of all modules.
        max_rank: that was asked for.
    """

    factors: dict[str, Factors]
    report: ExportedAdapter
    layout: str
    max_rank: int | None


def thinned(
    updates: Sequence[Change],
    remembered: Sequence[Remembered],
    base: BaseModelInfo,
    max_rank: int | None = None,
    every_layer: LanguageModel | None = None,
) -> Thinned:
    """The sum of the updates of each weight, as a product of two thin matrices.

    Args:
        updates: changes of weights of linear modules.
        remembered: what the edit leaves, keys among it.
        base: the model that they are for.
        max_rank: at most so many outer products for a weight; by default as many as it takes.
        every_layer: that model itself, to have zeros for its other layers too, and one rank.

    Raises:
        EditError: LoRA cannot express an update, the edit builds on others, or layers differ.
        WrongModelError: `every_layer` is another model.
        InvalidRequestError: the rank is below 1.
    """
    if base.on_top_of:
        raise EditError(
            "This edit was computed on a model that already carried other edits, and does not "
            "stand alone. Put them together with combine() and export the result."
        )
    if every_layer is not None:
        check_base(every_layer, base)
    made = _thinned(_by_module(updates), remembered, max_rank)
    return made if every_layer is None else _for_every_layer(made, every_layer)


def _by_module(updates: Sequence[Change]) -> dict[str, list[Change]]:
    by_module: dict[str, list[Change]] = {}
    for update in updates:
        by_module.setdefault(_module_of(update.weight_name), []).append(update)
    if not updates:
        raise EditError("This edit changes no weights, so there is nothing to write an adapter of.")
    layouts = {update.layout for update in updates}
    if len(layouts) != 1:
        raise EditError(
            "A LoRA adapter says once for all its modules how their weights are laid out, and this "
            f"edit has {len(layouts)} layouts. Export edits of one layout, or merge into a "
            "checkpoint."
        )
    return by_module


def _thinned(
    by_module: Mapping[str, Sequence[Change]],
    remembered: Sequence[Remembered],
    max_rank: int | None,
) -> Thinned:
    made: dict[str, Factors] = {}
    modules: list[ExportedModule] = []
    for module, changes in sorted(by_module.items()):
        change = summed(changes)
        made[module] = factors(change, max_rank)
        modules.append(_report(module, change, made[module], remembered))
    layout = next(iter(by_module.values()))[0].layout
    return Thinned(made, ExportedAdapter(tuple(modules)), layout, max_rank)


def _module_of(weight_name: str) -> str:
    module, _, parameter = weight_name.rpartition(".")
    embeddings = {row.embed for row in ARCHITECTURES.values()}
    if not module or parameter != "weight" or module in embeddings:
        raise EditError(
            f"A LoRA adapter changes weights of linear modules, and '{weight_name}' is none. "
            "Merge the edit into a checkpoint instead."
        )
    return module


def _report(
    module: str, change: Change, found: Factors, remembered: Sequence[Remembered]
) -> ExportedModule:
    rank = found.left.shape[1]
    full = min(change.rank, *change.shape)
    is_cut = change.rank > rank and found.kept_energy < 1
    keys = _keys_of(module, change.shape[1], remembered) if is_cut else None
    moved = None if keys is None else _moved(change, found, keys)
    return ExportedModule(module, rank, found.kept_energy, max(rank, full), change.norm, moved)


def _keys_of(
    module: str, width: int, remembered: Sequence[Remembered]
) -> Float[Tensor, "facts d_in"] | None:
    """The keys that facts were written at in a module, float64; None if there are none."""
    parts = set(module.split("."))
    found = [
        tensor.cpu().double()
        for block in remembered
        for name, tensor in block.tensors.items()
        if (named := _KEYS.fullmatch(name)) and named[1] in parts
        if tensor.ndim == 2 and tensor.shape[1] == width
    ]
    return torch.cat(found) if found else None


def _moved(change: Change, cut: Factors, keys: Float[Tensor, "facts d_in"]) -> float | None:
    whole = _at(change, keys)
    kept = keys @ cut.right.cpu().double().T @ cut.left.cpu().double().T
    size = float(whole.norm())
    return float((whole - kept).norm()) / size if size else None


def _at(change: Change, keys: Float[Tensor, "facts d_in"]) -> Float[Tensor, "facts d_out"]:
    """What a change adds to a module's output at some inputs."""
    if change.thin is None:
        return keys @ change.matrix(torch.float64, torch.device("cpu")).T
    left, right = (factor.cpu().double() for factor in change.thin)
    return keys @ right.T @ left.T


def _for_every_layer(made: Thinned, lm: LanguageModel) -> Thinned:
    """The same changes, with zeros at the modules of all other layers, and all of one rank.

    TGI stacks what an adapter has for the layers: it passes over a kind of module that some layer
    lacks, and takes one rank only (`server/text_generation_server/adapters/lora.py`).

    Args:
        made: the changes.
        lm: the model that they are for.

    Raises:
        EditError: a module is in no layer, or is not the same in all layers.
    """
    largest, layers = made.report.rank, lm.layers.anatomy.layers
    whole: dict[str, Factors] = {}
    for module, found in made.factors.items():
        shape = (found.left.shape[0], found.right.shape[1])
        for name in _in_every_layer(module, layers, lm.n_layers):
            if name not in made.factors:
                _check_same(name, module, shape, lm)
                nothing = Factors(found.left[:, :0], found.right[:0], 1.0)
                whole.setdefault(name, _padded(nothing, largest))
        whole[module] = _padded(found, largest)
    return made._replace(factors=dict(sorted(whole.items())))


def _in_every_layer(module: str, layers: str, n_layers: int) -> list[str]:
    number, _, rest = module.removeprefix(f"{layers}.").partition(".")
    if not module.startswith(f"{layers}.") or not number.isdecimal() or not rest:
        raise EditError(
            f"'{module}' is in no layer, so there is nothing to write for other layers. Leave "
            "every_layer (--every-layer) out."
        )
    return [f"{layers}.{layer}.{rest}" for layer in range(n_layers)]


def _check_same(name: str, module: str, shape: tuple[int, int], lm: LanguageModel) -> None:
    try:
        widths = widths_of(lm.model.get_submodule(name))
    except AttributeError:
        widths = None
    if widths != shape:
        raise EditError(
            f"Layers of {lm.name} differ: '{module}' is {shape[0]} × {shape[1]}, and '{name}' is "
            f"{'not there' if widths is None else f'{widths[0]} × {widths[1]}'}. Leave every_layer "
            "(--every-layer) out, or merge the edit into a checkpoint."
        )


def _padded(found: Factors, rank: int) -> Factors:
    """The same product with columns and rows of zeros."""
    more = rank - found.left.shape[1]
    left = torch.nn.functional.pad(found.left, (0, more))
    right = torch.nn.functional.pad(found.right, (0, 0, 0, more))
    return Factors(left, right, found.kept_energy)
