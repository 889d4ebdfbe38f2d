"""Plain matrix products inside a model: which modules are such, and how their weights lie.

Dimensions are read off the weights, the orientation of a weight from the class of its module.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.families import Layout
from factlab.transformers_api import Conv1D

# The float types that weights may have; those of 8 bits are ways to store quantised ones.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Subclasses of nn.Linear that do what it does, by another order of operations.
_PLAIN_SUBCLASSES = ("transformers.models.falcon.modeling_falcon.FalconLinear",)


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


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a matrix product whose weight is a plain tensor of floats."""
    if not is_projection(module):
        return False
    weight = module.weight
    return type(weight) in {Tensor, nn.Parameter} and weight.dtype in FLOATS and not weight.is_meta


def out_width(projection: nn.Linear | Conv1D) -> int:
    """Width of what a projection gives."""
    return projection.weight.shape[1 if isinstance(projection, Conv1D) else 0]
