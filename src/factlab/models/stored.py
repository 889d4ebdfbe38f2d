"""Where the numbers of a model's weights are: in plain tensors, in packed ones, or offloaded.

A quantised weight is not one tensor of floats. It may be a tensor of bytes with scales beside it
(parameters, buffers, or what its module writes into a checkpoint), a tensor of a class of its own
with several inside, or an object that holds some. An offloaded one is nowhere until its module
runs: accelerate puts it in place then, from memory or from disk, and a tensor without numbers (on
`meta`) is there meanwhile. Where a model is run in parallel by several processes, each of them has
a piece. `stored` finds all of them, so that what reads a model's bits need not
know of any of this.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.projections import FLOATS, is_projection

_PLAIN = (Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True, eq=False)
class OnDisk:
    """A weight that accelerate reads from disk whenever its module runs.

    Attributes:
        weights: accelerate's map, which reads it.
        key: its name there.
        file: that it is in.
    """

    weights: Mapping[str, Any]
    key: str
    file: Path | None

    def read(self) -> Tensor:
        """Its numbers."""
        return self.weights[self.key]

    @property
    def place(self) -> tuple[object, ...]:
        """What is other as soon as the file is."""
        if self.file is None:
            return (id(self.weights), self.key)
        stat = self.file.stat()
        return (str(self.file), stat.st_mtime_ns, stat.st_size)


@dataclass(frozen=True, slots=True, eq=False)
class InPieces:
    """A weight of which each process that runs the model has a piece (torch's `DTensor`).

    Attributes:
        weight: of which this process has its own.
    """

    weight: Any

    def read(self) -> Tensor:
        """All of its numbers. Every process has to ask for them at the same time."""
        return self.weight.detach().full_tensor()

    @property
    def place(self) -> tuple[object, ...]:
        """What is other as soon as this process has changed its piece."""
        return (id(self.weight), self.weight.to_local()._version)


Elsewhere = OnDisk | InPieces


def offloaded(model: nn.Module) -> dict[str, Tensor | OnDisk]:
    """What accelerate puts in place of tensors without numbers, by name."""
    return _elsewhere(model.named_modules())


def _elsewhere(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, Tensor | OnDisk]:
    found: dict[str, Tensor | OnDisk] = {}
    for path, module in modules:
        for hook in _offloading(module):
            tensors: list[tuple[str, Tensor]] = [
                *module.named_parameters(path, recurse=hook.place_submodules),
                *module.named_buffers(path, recurse=hook.place_submodules),
            ]
            for name, tensor in tensors:
                key = name.removeprefix(f"{path}.") if path else name
                if tensor.is_meta and key in _Keys(hook.weights_map):
                    found.setdefault(name, _source(hook.weights_map, key))
    return found


def device_of(module: nn.Module) -> torch.device:
    """Where a module's inputs go: to its weights, or where these will be when it runs."""
    weight = next(module.parameters(), next(module.buffers(), None))
    if weight is not None and not weight.is_meta:
        return weight.device
    for each in module.modules():
        for hook in _offloading(each):
            if hook.execution_device is not None:
                return torch.device(hook.execution_device)
    return torch.device("cpu") if weight is None else weight.device


def float_type(module: nn.Module) -> torch.dtype:
    """The float type of the first weight that is of floats."""
    return next((w.dtype for w in module.parameters() if w.dtype in FLOATS), torch.float32)


def tensor_of(module: Any) -> Tensor:
    """The weight of an embedding or a head, as a plain tensor of floats, wherever it is.

    Raises:
        UnsupportedModelError: it is packed in a way that says nothing of the floats it stands for.
    """
    weight = module.weight
    if weight.is_meta:
        there = offloaded(module).get("weight")
        weight = there.read() if isinstance(there, OnDisk) else there
    kept = weight.data if type(weight) is nn.Parameter else weight
    dequantise = getattr(kept, "dequantize", None)
    if type(kept) not in _PLAIN and callable(dequantise):
        kept = dequantise()
    if not isinstance(kept, Tensor) or kept.dtype not in FLOATS or kept.is_meta:
        raise UnsupportedModelError(
            f"The weight of {type(module).__name__} is quantised, and its numbers cannot be read. "
            "Load the model with this part unquantised."
        )
    return kept.detach().as_subclass(Tensor)


# Attributes of all modules, and those of these types, hold no tensors of weights.
_OF_ALL = frozenset(vars(nn.Module()))
_SIMPLE = frozenset({bool, int, float, str, tuple, list, dict, type(None)})


def stored(model: nn.Module) -> dict[str, Tensor | Elsewhere]:
    """All tensors that hold the numbers of a model's weights, by name.

    Of a model of plain tensors, these are its parameters.

    Raises:
        UnsupportedModelError: a weight shows none of what it is made of.
    """
    modules = [*model.named_modules()]  # walked once: this is done at every check of a model
    elsewhere = _elsewhere(modules)
    found: dict[str, Tensor | Elsewhere] = {}
    for name, parameter in _parameters(modules):
        if is_spread(parameter):
            found[name] = InPieces(parameter)
        elif parameter.is_meta and (there := elsewhere.get(name)) is not None:
            if not _is_tied(model, name, found):
                found[name] = there
        else:
            found.update(_inside(name, parameter))
    for path, module in modules:
        if is_packed(module):
            for name, tensor in _of_packed(path, module):
                source = elsewhere.get(name, tensor) if tensor.is_meta else tensor
                if is_spread(tensor):
                    continue  # a parameter, which is there already
                if isinstance(source, OnDisk):
                    found.setdefault(name, source)
                elif not source.is_meta:
                    for inner, each in _inside(name, source):
                        found.setdefault(inner, each)
    return found


def is_packed(module: nn.Module) -> bool:
    """Whether a module's own tensors are not plain floats, or stand beside ones that are not."""
    for each in module._parameters.values():
        if each is not None and not _is_plain(each):
            return True
    if any(_objects(module)):
        return True
    # Projections of other libraries keep everything in buffers.
    if not module._buffers or is_projection(module):
        return False
    return hasattr(module, "in_features") or hasattr(module, "infeatures")


def is_spread(weight: Tensor) -> bool:
    """Whether a tensor is one of pieces that lie on several devices or machines."""
    kinds = (*type(weight).__mro__, *type(weight.data).__mro__)
    return any(
        kind.__name__ == "DTensor" or kind.__module__.startswith("torch.distributed")
        for kind in kinds
    )


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is a tensor of floats, and not a class of its own outside or inside."""
    kinds = type(weight), type(weight.data)
    return kinds[0] in _PLAIN and kinds[1] in _PLAIN and weight.dtype in FLOATS


def _parameters(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter once, under its first name."""
    seen: set[int] = set()
    for path, module in modules:
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{key}" if path else key, parameter


class _Keys:
    """What a map of accelerate holds: those that put a prefix before keys list others."""

    def __init__(self, weights: Mapping[str, Any] | None) -> None:
        self._whole = getattr(weights, "dataset", weights)
        self._prefix = getattr(weights, "prefix", "")

    def __contains__(self, key: str) -> bool:
        return self._whole is not None and f"{self._prefix}{key}" in self._whole


def _offloading(module: nn.Module) -> Iterator[Any]:
    """Hooks of accelerate that put weights in place while a module runs."""
    hook = vars(module).get("_hf_hook")
    if hook is None:
        return
    for each in getattr(hook, "hooks", (hook,)):
        if getattr(each, "offload", False) and getattr(each, "weights_map", None) is not None:
            yield each


def _source(weights: Mapping[str, Any], key: str) -> Tensor | OnDisk:
    """A tensor that is held in memory, or how to read it."""
    whole: Any = getattr(weights, "dataset", weights)
    full = f"{getattr(weights, 'prefix', '')}{key}"
    held = getattr(whole, "state_dict", whole)
    if isinstance(held, Mapping) and isinstance(tensor := held.get(full), Tensor):
        return tensor
    entry = (getattr(whole, "index", None) or {}).get(full, {})
    folder = getattr(whole, "save_folder", None)
    file = entry.get("safetensors_file") or (folder and Path(folder) / f"{full}.dat")
    return OnDisk(weights, key, Path(file) if file else None)


def _is_tied(model: nn.Module, name: str, found: Mapping[str, object]) -> bool:
    """Whether a weight is another one's, under a second name: offloaded ones do not show it."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return tied.get(name) in found or any(tied.get(other) == name for other in found)


def _inside(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or those that one of a class of its own is made of."""
    data = tensor.data if type(tensor) is nn.Parameter else tensor
    if type(data) in _PLAIN or not _is_wrapper(data):
        yield name, tensor
        return
    flatten = getattr(data, "__tensor_flatten__", None)
    if flatten is not None:
        for part in flatten()[0]:
            yield from _inside(f"{name}.{part}", getattr(data, part))
    elif callable(getattr(data, "dequantize", None)):
        yield from _inside(name, data.dequantize())
    else:
        raise UnsupportedModelError(
            f"Weight '{name}' is a {type(data).__name__}, which does not show what it is made of, "
            "so that nobody can tell whether it is the same as another time. What is kept by the "
            "model's fingerprint (statistics, edits, runs) needs the model in another format."
        )


def _is_wrapper(data: Tensor) -> bool:
    """Whether a tensor has no numbers of its own, but others inside."""
    if hasattr(data, "__tensor_flatten__"):
        return True
    try:
        return data.numel() > 0 and not data.is_meta and data.untyped_storage().data_ptr() == 0
    except (RuntimeError, NotImplementedError):  # it has no storage at all
        return True


def _of_packed(path: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a module would write of itself into a checkpoint, and what it holds in objects."""
    prefix = f"{path}." if path else ""
    written: dict[str, Any] = {}
    module._save_to_state_dict(written, prefix, keep_vars=True)
    for name, tensor in written.items():
        if isinstance(tensor, Tensor):
            yield name, tensor
    for name, tensor in _objects(module):
        yield f"{prefix}{name}", tensor


def _objects(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors inside attributes that are no tensors, as weights in MXFP4 are once they are loaded.

    Their kernels' own class holds the numbers as `storage.data`.
    """
    for name, value in vars(module).items():
        if name in _OF_ALL or type(value) in _SIMPLE or name.startswith("_"):
            continue
        if isinstance(value, Tensor | nn.Module):
            continue
        data = getattr(getattr(value, "storage", None), "data", None)
        if isinstance(data, Tensor):
            yield name, data
