"""Running a model without leaving a trace on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from factlab.interrupts import undone
from factlab.models.budget import told_of_memory
from factlab.models.products import fast_products
from factlab.transformers_api import settle_scales

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


@contextmanager
def frozen(lm: "LanguageModel") -> Iterator[None]:
    """Evaluation mode, no parameter gradients, fast products inside the block; as before after.

    Gradients still flow through the model to tensors that ask for them. Other threads wait.

    Raises:
        MemoryLimitError: memory ran out inside the block; says how much less to allow.
    """
    with lm.lock, told_of_memory(lm), _asleep(lm.model):
        yield


@contextmanager
def _asleep(model: PreTrainedModel) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    flags = [
        _Flag(module, name, parameter, parameter.requires_grad)
        for module, _ in modes
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    with undone(partial(_awake, modes, flags)), fast_products(module for module, _ in modes):
        for module, _ in modes:
            module.training = False
        for flag in flags:
            flag.parameter.requires_grad = False
        yield


class _Flag(NamedTuple):
    """Whether a parameter wants gradients.

    Known by its module too: what offloads weights puts another parameter in its place.
    """

    module: nn.Module
    name: str
    parameter: nn.Parameter
    wants: bool


def _awake(modes: Sequence[tuple[nn.Module, bool]], flags: Sequence[_Flag]) -> None:
    for module, training in modes:
        module.training = training
    settle_scales(module for module, _ in modes)
    for flag in flags:
        flag.parameter.requires_grad = flag.wants
        now = flag.module._parameters.get(flag.name)
        if now is not None and now is not flag.parameter:
            now.requires_grad = flag.wants
