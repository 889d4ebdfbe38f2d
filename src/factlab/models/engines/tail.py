"""From the states that enter the head to logits, with whatever a family does to them there."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook
from factlab.models.engines.shell import shallow


class Tail:
    """A model's own last steps: its head, and any scaling or cap behind it.

    Works on a shallow copy in which the model without its head is a stand-in that says what we
    want it to.

    Args:
        model: the caller's model; shared, not modified.
        bare: whether only the head is called, for a model whose forward pass cannot be used so.

    Attributes:
        entering: a hook that leaves a pass with the states that this takes, by `Reached`.

    Raises:
        UnsupportedModelError: the model has no part that is all of it but the head.
    """

    def __init__(self, model: PreTrainedModel, bare: bool) -> None:
        self._model, self._base, self._bare = shallow(model), _Says(), bare
        head, base = model.get_output_embeddings(), getattr(model, model.base_model_prefix, None)
        if bare and isinstance(head, nn.Module):
            self.entering = Hook(head, _keep_input, before=True)
        elif isinstance(base, nn.Module):
            self._model._modules[model.base_model_prefix] = self._base
            self.entering = Hook(base, _keep_output)
        else:
            raise UnsupportedModelError(f"{type(model).__name__} cannot be told from its head.")

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that enter the head."""
        if self._bare:
            return self._model.get_output_embeddings()(hidden)
        self._base.state = hidden[:, None]
        ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
        try:
            output = type(self._model).forward(self._model, input_ids=ids)
        finally:
            self._base.state = None
        return output.logits[:, 0]


class Reached(Exception):  # noqa: N818, it is no error
    """The state that a pass was made for has been seen."""


def _keep_input(_module: nn.Module, args: tuple[Any, ...]) -> None:
    raise Reached(args[0])


def _keep_output(_module: nn.Module, _args: object, output: Any) -> None:
    state = getattr(output, "last_hidden_state", None)
    raise Reached(output[0] if state is None else state)


class _Said(tuple[Any, ...]):
    """What a model without its head returns: its last state, and nothing else."""

    def __getattr__(self, name: str) -> Any:
        return self[0] if name == "last_hidden_state" else None


class _Says(nn.Module):
    """Takes the place of a model without its head."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return _Said((self.state,))
