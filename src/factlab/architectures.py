"""From a model to where it keeps its parts, by the table of families or by its structure.

The table (`families`) holds paths only. Dimensions are read off the weights, the orientation of a
weight from the class of its module, and everything is checked against a real forward pass when a
model is loaded (`factlab.models.check`). A family that is missing in the table is discovered by
`discover` and passes or fails the same check.
"""

from torch import nn
from transformers import PreTrainedModel

from factlab.errors import UnsupportedModelError, nearest
from factlab.families import ARCHITECTURES, Architecture, Layout
from factlab.transformers_api import Conv1D


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The table's row for a model, or what its structure reveals when the family is not listed."""
    family = str(model.config.model_type)
    return ARCHITECTURES.get(family) or discover(model)


def layout_of(module: nn.Module) -> Layout:
    """How a projection's weight is oriented, by its class: never guessed from shapes.

    Raises:
        UnsupportedModelError: the module is neither `nn.Linear` nor transformers' `Conv1D`, or its
            weights are quantised.
    """
    if isinstance(module, nn.Linear | Conv1D) and module.weight.is_floating_point():
        return "out_in" if isinstance(module, nn.Linear) else "in_out"
    raise UnsupportedModelError(
        f"Projection of class {type(module).__name__} is not a plain nn.Linear or Conv1D of "
        "floats; quantised weights cannot be edited. Load the model unquantised."
    )


def attention_inputs(layer: nn.Module, architecture: Architecture) -> list[str]:
    """Paths, inside a layer, of attention's input projections: all beside its output projection.

    Raises:
        UnsupportedModelError: there are none.
    """
    parent, _, out = architecture.attn_out.rpartition(".")
    found = [
        f"{parent}.{name}"
        for name, module in layer.get_submodule(parent).named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name != out
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
        if isinstance(module, nn.Linear | Conv1D) and name != out
    ]
    if not found:
        raise _missing(architecture.family, f"plain input projections of the MLP in '{parent}'")
    return found


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def discover(model: PreTrainedModel) -> Architecture:
    """Find the parts of a family that is not in the table from the structure of its modules.

    The decoder layers are the first list of modules of one class that is as long as the config
    says. Inside a layer, a projection that ends at the width of the embedding writes into
    the residual stream; the last one under a module named like attention is attention's, the last
    of the others is the MLP's.

    Raises:
        UnsupportedModelError: a part was not found; the message names it.
    """
    family = str(model.config.model_type)
    n_layers = getattr(model.config, "num_hidden_layers", None)
    embed = model.get_input_embeddings()
    paths = {id(module): name for name, module in model.named_modules()}
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1
    ]
    found = [(name, module) for name, module in lists if len(module) == n_layers]
    if any(getattr(model.config, name, None) for name in _EXPERTS):
        raise _missing(family, "one MLP per layer: it has a mixture of experts")
    if not found:
        raise _missing(family, f"a list of {n_layers} decoder layers")
    if id(embed) not in paths or not isinstance(embed, nn.Embedding):
        raise _missing(family, "a token embedding")
    layers_path, layers = found[0]
    width = embed.weight.shape[1]
    writers = [
        name
        for name, module in layers[0].named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _out_width(module) == width
    ]
    attention = [name for name in writers if "attn" in name or "attention" in name]
    others = [name for name in writers if name not in attention]
    if not attention:
        raise _missing(family, f"an attention output projection of width {width}")
    if not others:
        raise _missing(family, f"an MLP output projection of width {width}")
    return Architecture(family, layers_path, paths[id(embed)], attention[-1], others[-1])


def _out_width(projection: nn.Linear | Conv1D) -> int:
    return projection.weight.shape[0 if isinstance(projection, nn.Linear) else 1]


def _missing(family: str, part: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Model family '{family}' is not in the table and its structure does not show {part}."
        f"{nearest(family, ARCHITECTURES)} Supported families: {', '.join(ARCHITECTURES)}."
    )
