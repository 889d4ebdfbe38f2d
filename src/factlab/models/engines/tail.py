"""From the states that enter the head to logits, with whatever a family does to them there."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.models.engines.shell import shallow


class Tail:
    """A model's own last steps: its head, and any scaling or cap behind it.

    Works on a shallow copy in which the model without its head is a stand-in that says what we
    want it to.

    Args:
        model: the caller's model; shared, not modified.

    Attributes:
        bare: whether the head alone is called, since the model's forward pass cannot be used so.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.bare = False
        self._model, self._base = shallow(model), _Says()
        name = model.base_model_prefix
        if isinstance(getattr(model, name, None), nn.Module):
            self._model._modules[name] = self._base
        else:
            self.bare = True

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that enter the head."""
        if self.bare:
            return self._model.get_output_embeddings()(hidden)
        self._base.state = hidden[:, None]
        ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
        try:
            output = type(self._model).forward(self._model, input_ids=ids)
        finally:
            self._base.state = None
        return output.logits[:, 0]


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
