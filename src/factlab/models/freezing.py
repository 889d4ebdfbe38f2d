"""Running a model without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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

    def awake() -> None:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad = requires_grad

    with undone(awake), fast_products(module for module, _ in modes):
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad = False
        yield
