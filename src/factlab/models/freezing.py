"""Running a model without leaving a trace on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from factlab.interrupts import undone
from factlab.models.budget import told_of_memory
from factlab.models.products import fast_products

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
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with undone(partial(_awake, modes, flags)), fast_products(module for module, _ in modes):
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad = False
        yield


def _awake(
    modes: Sequence[tuple[nn.Module, bool]], flags: Sequence[tuple[nn.Parameter, bool]]
) -> None:
    for module, training in modes:
        module.training = training
    for parameter, requires_grad in flags:
        parameter.requires_grad = requires_grad
