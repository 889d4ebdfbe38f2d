"""Whether the experts of a model are what they seem: tried out when it is loaded."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.documents import described
from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, attached
from factlab.models.anatomy import Anatomy, LayerParts, Part
from factlab.models.engines.engine import first_tensor
from factlab.models.experts import Mixture, Shared, combined, mixture_of, routed
from factlab.models.probing import close
from factlab.projections import is_plain

# What families call the expert that every token goes through, its last matrix, and its gate.
_SHARED = ("shared_expert", "shared_experts", "shared_mlp")
_LAST, _GATE = "down_proj", "shared_expert_gate"


@dataclass
class _Call:
    """What one module was called with."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None

    def note(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """To be called before the module is."""
        self.args, self.kwargs = _kept(args), _kept(kwargs)

    def again(self, module: nn.Module) -> Tensor:
        """What the module gives for the same."""
        return first_tensor(module(*_kept(self.args), **_kept(self.kwargs or {}))).clone()


def _kept(value: Any) -> Any:
    """Nested arguments with copies of their tensors, which a module may write to."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _kept(each) for key, each in value.items()}
    if isinstance(value, tuple | list) and type(value) in {tuple, list}:
        return type(value)(map(_kept, value))
    return value


def with_mixtures(
    anatomy: Anatomy, model: PreTrainedModel, speaker: PreTrainedModel, ids: Tensor
) -> Anatomy:
    """The anatomy with what its mixtures of experts are, or why they cannot be looked into.

    Call it without gradients, in evaluation mode.

    Args:
        anatomy: with parts that were checked.
        model: whose layers are those of the anatomy.
        speaker: it, or the decoder in it that is called.
        ids: a text, (1, pos).
    """
    parts = anatomy.parts
    blocks = {i: each.mlp for i, each in enumerate(parts) if each.mlp and each.mlp.experts}
    if not blocks:
        return anatomy
    layers = list(model.get_submodule(anatomy.layers).children())
    modules = {i: layers[i].get_submodule(part.whole) for i, part in blocks.items()}
    calls = {i: _Call() for i in blocks}
    hooks = [
        Hook(module, calls[i].note, before=True, with_kwargs=True) for i, module in modules.items()
    ]
    with attached(hooks):
        speaker(input_ids=ids, use_cache=False)
    found = [
        LayerParts(each.mixer, _examined(blocks[i], layers[i], modules[i], calls[i]))
        if i in blocks
        else each
        for i, each in enumerate(parts)
    ]
    return anatomy.with_parts(found)


def _examined(part: Part, layer: nn.Module, block: nn.Module, call: _Call) -> Part:
    part = replace(part, shared=_shared(part, layer, block, call))
    container = layer.get_submodule(part.experts or "")
    try:
        mixture = mixture_of(part.experts or "", container)
        return replace(part, mixture=_checked(mixture, container, block, call))
    except UnsupportedModelError as error:
        return replace(part, unread=str(error))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return replace(part, unread=f"its experts cannot be read: {described(error)}")


def _checked(mixture: Mixture, container: nn.Module, block: nn.Module, call: _Call) -> Mixture:
    """The mixture, if it computes what we say that it does.

    Raises:
        UnsupportedModelError: it does not, or its output is not added as it is.
    """
    inner, outputs = _Call(), list[Tensor]()
    watching = [
        Hook(container, inner.note, before=True, with_kwargs=True),
        Hook(container, partial(_keep, outputs)),
    ]
    with attached(watching):
        plain = call.again(block)
    if len(outputs) != 1:
        raise UnsupportedModelError(f"its experts run {len(outputs)} times in one pass")
    calls = routed(mixture, container, inner.args, inner.kwargs or {})
    given = outputs[0]
    if mixture.sorted_rows:
        given = given.view(mixture.n_experts, -1, given.shape[-1]).sum(0)
    if not close(combined(mixture, container, calls), given):
        raise UnsupportedModelError(
            "what its experts give is not the sum of their matrices times keys, with the router's "
            "weights"
        )
    added = torch.ones_like(given) * float(given.abs().mean().clamp(min=1e-3))
    with attached([Hook(container, partial(_with, added))]):
        moved = call.again(block)
    if not close((moved - plain).reshape(added.shape), added):
        raise UnsupportedModelError("what its experts give is not added to the stream as it is")
    n_chosen = int((calls.weights != 0).sum(-1).max())
    return replace(mixture, n_chosen=max(1, n_chosen))


def _shared(part: Part, layer: nn.Module, block: nn.Module, call: _Call) -> Shared | None:
    """The expert that every token goes through, if its output is added with the weight we think."""
    names = [n for n, child in block.named_children() if n in _SHARED and _has_matrix(child)]
    if len(names) != 1:
        return None
    gate = f"{part.whole}.{_GATE}" if isinstance(getattr(block, _GATE, None), nn.Linear) else None
    found = Shared(f"{part.whole}.{names[0]}.{_LAST}", gate)
    matrix = layer.get_submodule(found.projection)
    weight = layer.get_parameter(f"{found.projection}.weight")
    added, gates = weight.new_ones(len(weight)), list[Tensor]()
    watching = [Hook(matrix, partial(_with_all, added))]
    if gate is not None:
        watching.append(Hook(layer.get_submodule(gate), partial(_keep, gates)))
    try:
        plain = call.again(block)
        with attached(watching):
            moved = call.again(block)
    except (RuntimeError, TypeError, ValueError, UnsupportedModelError):
        return None
    moves = (moved - plain).reshape(-1, len(added))
    factor = gates[0].sigmoid().reshape(-1, 1) if gates else torch.ones_like(moves[:, :1])
    return found if close(moves, factor * added) else None


def _has_matrix(module: nn.Module) -> bool:
    last = module._modules.get(_LAST)
    return last is not None and is_plain(last) and isinstance(last, nn.Linear)


def _with_all(added: Tensor, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return output + added


def _keep(seen: list[Tensor], _module: nn.Module, _args: object, output: Any) -> None:
    seen.append(first_tensor(output).detach().clone())


def _with(added: Tensor, _module: nn.Module, _args: object, output: Any) -> Any:
    """The output with something added to it; of sorted rows to those of the first expert."""
    if not isinstance(output, Tensor):
        raise UnsupportedModelError(f"its experts give a {type(output).__name__}, not a tensor")
    changed = output.clone()
    changed.view(-1, added.shape[-1])[: len(added)] += added
    return changed
