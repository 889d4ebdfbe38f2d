"""From a model to where it keeps its parts, by the table of families or by its structure.

The table (`families`) holds paths only. Dimensions are read off the weights, the orientation of a
weight from the class of its module, and everything is checked against a real forward pass when a
model is loaded (`factlab.models.check`). A family that is missing in the table is discovered by
`discover` and passes or fails the same check.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import TypeGuard

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from factlab.errors import UnsupportedModelError
from factlab.families import ARCHITECTURES, Architecture, Layout
from factlab.transformers_api import Conv1D

# The float types that weights may have; those of 8 bits are ways to store quantised ones.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Subclasses of nn.Linear that do what it does, by another order of operations.
_PLAIN_SUBCLASSES = ("transformers.models.falcon.modeling_falcon.FalconLinear",)


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The table's row for a model, or what its structure reveals when the family is not listed."""
    family = str(model.config.model_type)
    return ARCHITECTURES.get(family) or discover(model)


def layout_of(module: nn.Module) -> Layout:
    """How a projection's weight is oriented, by its class: never guessed from shapes.

    Only the classes themselves count. What inherits from `nn.Linear` may multiply by something else
    than its weight, as the layers of quantised models do.

    Raises:
        UnsupportedModelError: the module is neither `nn.Linear` nor transformers' `Conv1D`, or its
            weights are quantised.
    """
    kind = type(module)
    if is_projection(module) and module.weight.dtype in FLOATS:
        return "in_out" if kind is Conv1D else "out_in"
    name = kind.__name__
    if kind.__module__.partition(".")[0] == "peft":
        raise UnsupportedModelError(
            f"An adapter ({name} of peft) is around a projection that factlab reads and edits. "
            "Pass what merge_and_unload() of the PeftModel returns."
        )
    raise UnsupportedModelError(
        f"Projection of class {kind.__module__}.{name} is not a plain nn.Linear or Conv1D of "
        "floats, as in a quantised model. Load the model unquantised, in float32, bfloat16, "
        "float16 or float64."
    )


def is_projection(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether a module is a plain matrix product."""
    kind = type(module)
    return kind in (nn.Linear, Conv1D) or f"{kind.__module__}.{kind.__name__}" in _PLAIN_SUBCLASSES


def attention_inputs(layer: nn.Module, architecture: Architecture) -> list[str]:
    """Paths, inside a layer, of attention's input projections: all beside its output projection.

    Raises:
        UnsupportedModelError: there are none.
    """
    parent, _, out = architecture.attn_out.rpartition(".")
    found = [
        f"{parent}.{name}"
        for name, module in layer.get_submodule(parent).named_modules()
        if is_projection(module) and name != out
    ]
    if not found:
        raise _missing(architecture.family, f"input projections of attention in '{parent}'")
    return found


def mlp_inputs(layer: nn.Module, architecture: Architecture) -> list[str]:
    """Paths, inside a layer, of the MLP's input projections: those beside its output projection.

    An MLP has one, or if it is gated two, unless they are stored as one matrix.

    Raises:
        UnsupportedModelError: there are none.
    """
    parent, _, out = architecture.mlp_out.rpartition(".")
    found = [
        f"{parent}.{name}" if parent else name
        for name, module in layer.get_submodule(parent).named_children()
        if is_projection(module) and name != out
    ]
    if not found:
        raise _missing(architecture.family, f"plain input projections of the MLP in '{parent}'")
    return found


_MLP_NAMES = ("mlp", "ffn", "feed_forward", "fc")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def discover(model: PreTrainedModel) -> Architecture:
    """Find the parts of a family that is not in the table from the structure of its modules.

    The decoder layers are the list of modules that is as long as the config of the text decoder
    says and stands nearest to the token embedding (a model that also sees has a second list).
    Inside a layer, a projection that ends at the width of the embedding writes into the residual
    stream; the last one under a module named like attention is attention's, the last of the others
    (of those named like an MLP, if any are) is the MLP's. Every layer must give the same two paths.

    Raises:
        UnsupportedModelError: a part was not found, or layers differ; the message names it.
    """
    family, config = str(model.config.model_type), model.config.get_text_config(decoder=True)
    embed = model.get_input_embeddings()
    paths = {id(module): name for name, module in model.named_modules()}
    if id(embed) not in paths or not isinstance(embed, nn.Embedding):
        raise _missing(family, "a token embedding")
    embed_path, n_layers = paths[id(embed)], getattr(config, "num_hidden_layers", None)
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    if not lists:
        raise _missing(family, f"a list of {n_layers} decoder layers")
    layers_path = max(lists, key=lambda name: _n_shared(name, embed_path))
    layers = lists[layers_path]
    if _has_experts(layers, config):
        raise UnsupportedModelError(
            f"Model family '{family}' has a mixture of experts in its layers, not the one MLP that "
            f"is traced and edited. {_supported()}"
        )
    width = embed.weight.shape[1]
    writers = [_writers(layer, width) for layer in layers]
    attention, mlp = _same_in_all(family, writers)
    if attention is None:
        raise _missing(family, f"an attention output projection of width {width}")
    if mlp is None:
        raise _missing(family, f"an MLP output projection of width {width}")
    return Architecture(family, layers_path, embed_path, attention, mlp)


def check_kinds(layers: Sequence[nn.Module], architecture: Architecture) -> None:
    """Refuse layers of which some have a part that others lack.

    Raises:
        UnsupportedModelError: names the first layers that differ, and in what.
    """
    for path in (architecture.attn_out, architecture.mlp_out):
        lacking = [i for i, layer in enumerate(layers) if not _has(layer, path)]
        if lacking and len(lacking) < len(layers):
            other = next(i for i in range(len(layers)) if i not in lacking)
            raise UnsupportedModelError(
                f"The layers of this model (family '{architecture.family}') differ in kind: layer "
                f"{other} has a module '{path}', layer {lacking[0]} has none. Hybrid decoders are "
                "not supported."
            )


def check_widths(layers: Sequence[nn.Module], architecture: Architecture) -> None:
    """Refuse MLPs that are not all of one width.

    Raises:
        UnsupportedModelError: names the first layer that differs.
    """
    shapes = [
        tuple(layer.get_parameter(f"{architecture.mlp_out}.weight").shape) for layer in layers
    ]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise UnsupportedModelError(
                f"The layers of this model (family '{architecture.family}') differ in width: "
                f"'{architecture.mlp_out}.weight' is {_times(shapes[0])} in layer 0 and "
                f"{_times(shape)} in layer {index}. Models whose MLPs are not all of one width are "
                "not supported."
            )


Writers = tuple[str | None, str | None]


def _writers(layer: nn.Module, width: int) -> Writers:
    """Paths, in one layer, of what writes into the residual stream: attention's and the MLP's."""
    names = [
        name
        for name, module in layer.named_modules()
        if is_projection(module) and _out_width(module) == width
    ]
    attention = [name for name in names if "attn" in name or "attention" in name]
    others = [name for name in names if name not in attention]
    # Some layers have more that writes there, such as Gemma's per-layer inputs.
    others = [name for name in others if any(word in name for word in _MLP_NAMES)] or others
    return (attention[-1] if attention else None, others[-1] if others else None)


def _same_in_all(family: str, writers: Sequence[Writers]) -> Writers:
    for which, part in enumerate(("attention's", "the MLP's")):
        for index, each in enumerate(writers):
            if each[which] != writers[0][which]:
                places = (f"'{p}'" if p else "none" for p in (writers[0][which], each[which]))
                raise UnsupportedModelError(
                    f"The layers of model family '{family}' differ in kind: the module that writes "
                    f"{part} result is {next(places)} in layer 0 and {next(places)} in layer "
                    f"{index}. Hybrid decoders are not supported. {_supported()}"
                )
    return writers[0]


def _has_experts(layers: nn.ModuleList, config: PreTrainedConfig) -> bool:
    return any(getattr(config, name, None) for name in _EXPERTS) or any(
        "experts" in name.split(".") for name, _ in layers.named_modules()
    )


def _has(layer: nn.Module, path: str) -> bool:
    try:
        layer.get_submodule(path)
    except AttributeError:
        return False
    return True


def _out_width(projection: nn.Linear | Conv1D) -> int:
    return projection.weight.shape[1 if isinstance(projection, Conv1D) else 0]


def _n_shared(path: str, other: str) -> int:
    """How many modules two paths go through together."""
    pairs = zip(path.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _supported() -> str:
    return f"Supported families: {', '.join(ARCHITECTURES)}."


def _missing(family: str, part: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Model family '{family}' is not in the table and its structure does not show {part}. "
        f"{_supported()}"
    )
