"""Other weights in place of a model's own, without touching the model.

Inside the block a projection multiplies by the weight it is given: one for all rows, or one for
each group of rows, so that many differently edited models run in one batch. Gradients flow to them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from factlab.architectures import layout_of
from factlab.models.language_model import LanguageModel


@contextmanager
def substituted(lm: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let projections use other weights inside the block.

    Args:
        lm: the model.
        weights: by parameter name. A matrix is for all rows; a stack (group, d_out, d_in), in the
            orientation of the parameter, gives each group of consecutive rows its own.
    """
    before: dict[nn.Module, object] = {}
    try:
        for name, weight in weights.items():
            module = lm.model.get_submodule(name.removesuffix(".weight"))
            flips = layout_of(module) == "out_in"
            before[module] = vars(module).get("forward")
            vars(module)["forward"] = partial(_forward, module, weight.mT if flips else weight)
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def _forward(module: Any, weight: Tensor, inputs: Tensor) -> Tensor:
    """Inputs · weight + bias; weight is in × out."""
    weight = weight.to(inputs)
    if weight.ndim == 2:
        outputs = inputs @ weight
    else:
        rows = inputs.reshape(len(weight), -1, inputs.shape[-1])
        outputs = torch.bmm(rows, weight).view(*inputs.shape[:-1], weight.shape[-1])
    return outputs if module.bias is None else outputs + module.bias
