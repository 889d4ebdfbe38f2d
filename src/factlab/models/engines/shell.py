"""A model without its layers.

A Hugging Face decoder is three things in a row: a *front* that embeds tokens and works out what its
layers need (masks, rotary angles, positional biases), the *layers*, and a *tail* that turns the
last state into logits. Families differ in front and tail in more ways than one would want to know.
So none of it is written again here. `Shell` makes a shallow copy of the model in which every layer
is a stand-in, and lets the model's own code run around them:

* running the shell's front shows the arguments that each layer is about to get;
* handing a stand-in a state of our choice makes the model's own tail read it out.

The caller's model is not touched: the copy shares its modules and parameters, not its module lists.
"""

import copy
from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import UnsupportedModelError
from factlab.models.engines.engine import Call, Hidden
from factlab.models.stored import device_of
from factlab.tokens import TokenBatch
from factlab.transformers_api import Cache, accepts, cache_argument


class _StandIn(nn.Module):
    """Takes a layer's place: notes what it is called with, and hands on `replacement` or its input.

    Attributes that the model reads off its layers (such as `attention_type`) are the real layer's.
    """

    def __init__(self, real: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self.__dict__["real"] = real  # not registered as a submodule
        self.returns_tuple = returns_tuple
        self._seen: tuple[Tensor, Call] | None = None
        self.replacement: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["real"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._seen = hidden_states, (args, kwargs)
        out = hidden_states if self.replacement is None else self.replacement
        return (out, None) if self.returns_tuple else out

    def take(self) -> tuple[Tensor, Call] | None:
        """What the layer would have been called with, kept nowhere else; None if it was not."""
        seen, self._seen = self._seen, None
        return seen


class Shell:
    """A model without its layers: its front makes frames, its tail reads states out.

    Args:
        model: the caller's model; shared, not modified.
        layers_path: where its layers are.
        embed_path: where its token embedding is.
        returns_tuple: whether a layer returns a tuple that begins with the hidden state.
        first: the first layer that is called.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers_path: str,
        embed_path: str,
        returns_tuple: bool,
        first: int = 0,
    ) -> None:
        layers = model.get_submodule(layers_path)
        self._stand_ins = [_StandIn(layer, returns_tuple) for layer in layers.children()]
        self._root = shallow(model)
        parent: nn.Module = self._root
        *owners, list_name = layers_path.split(".")
        for name in owners:
            child = shallow(parent.get_submodule(name))
            parent._modules[name] = child
            parent = child
        parent._modules[list_name] = nn.ModuleList(self._stand_ins)
        self._base = parent
        self._embedding = model.get_submodule(embed_path)
        forward = type(parent).forward
        self._takes_positions = accepts(forward, "position_ids")
        self._cache_name = cache_argument(forward)
        self._first = first

    def front(
        self, batch: TokenBatch, cache: Cache | None = None, start: int = 0, rows: int | None = None
    ) -> tuple[Hidden, list[Call | None]]:
        """Embed columns `start` onwards of a batch and work out what each layer will need.

        Args:
            batch: the tokens, columns left of `start` included.
            cache: knows how many tokens are on the left; given to the layers.
            start: first column to run.
            rows: run this many rows, the batch repeated, instead of the batch's own number.

        Returns:
            The input of layer 0, and each layer's other arguments.
        """
        inputs = self.inputs(batch, start, rows) | {"use_cache": cache is not None}
        if cache is not None:
            inputs[self._cache_name] = cache
        type(self._base).forward(self._base, **inputs)
        seen = [stand_in.take() for stand_in in self._stand_ins]
        entry = next((each[0] for each in seen if each is not None), None)
        if entry is None:
            raise UnsupportedModelError("The model's forward pass calls none of its layers.")
        return entry, [None if each is None else each[1] for each in seen]

    def inputs(self, batch: TokenBatch, start: int, rows: int | None) -> dict[str, Any]:
        """What the model is called with, but for its cache."""
        repeats = 1 if rows is None else rows // batch.n_rows
        mask = batch.attention_mask
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids[:, start:].repeat(repeats, 1),
            "attention_mask": None if mask is None else mask.repeat(repeats, 1),
        }
        if self._takes_positions:
            inputs["position_ids"] = batch.position_ids[:, start:].repeat(repeats, 1)
        return inputs

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that leave the last layer: final norm, head, and any scaling or cap."""
        # One token per row: the tail works on each position alone, and no context limit applies.
        ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=device_of(self._embedding))
        first = self._stand_ins[self._first]
        first.replacement = hidden[:, None]
        try:
            output = type(self._root).forward(self._root, input_ids=ids, use_cache=False)
        finally:
            first.replacement = None
            for stand_in in self._stand_ins:
                stand_in.take()
        return output.logits[:, 0]


def shallow(module: nn.Module) -> Any:
    """A copy that shares submodules and parameters but can have submodules of its own.

    Hooks stay with the original, and so does a `forward` that another library put on the object.
    """
    clone = copy.copy(module)
    clone.__dict__["_modules"] = dict(module._modules)
    clone.__dict__["_forward_hooks"] = OrderedDict()
    clone.__dict__["_forward_pre_hooks"] = OrderedDict()
    clone.__dict__["training"] = False
    clone.__dict__.pop("forward", None)
    return clone
