"""The replay engine: run any part of a decoder, from any layer and any token onwards.

A Hugging Face decoder is three things in a row: a *front* that embeds tokens and works out what its
layers need (masks, rotary angles, positional biases), the *layers*, and a *tail* that turns the
last state into logits. Families differ in front and tail in more ways than one would want to know.
So none of it is written again here. `Shell` makes a shallow copy of the model in which every layer
is a stand-in, and lets the model's own code run around them:

* running the shell's front shows the arguments that each layer is about to get: a `Frame`;
* handing a stand-in a state of our choice makes the model's own tail read it out;
* the real layers are then called with a frame's arguments, starting at any layer, on any number of
  rows, with the keys and values of the tokens to the left supplied by a `Prefix`.

The caller's model is not touched: the copy shares its modules and parameters, not its module lists.
"""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from factlab.tokens import TokenBatch

Hidden = Float[Tensor, "batch pos d_model"]


class _PrefixLayer(CacheLayerMixin):
    """One layer's keys and values of tokens that do not change. Reading adds nothing to it."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the layer is born full."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The prefix, repeated to the number of rows that come, followed by the new tokens."""
        repeats = key_states.shape[0] // self.keys.shape[0]
        keys = self.keys.repeat(repeats, 1, 1, 1)
        values = self.values.repeat(repeats, 1, 1, 1)
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1


class Prefix(Cache):
    """Keys and values of the tokens left of a replay, at every layer. Read-only.

    With n rows stored, a replay of m·n rows is served row r from stored row r mod n: variants of
    the same rows ride along as long as the stored rows are the inner index.
    """

    def __init__(self, keys_values: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[_PrefixLayer(keys, values) for keys, values in keys_values])

    @classmethod
    def of(cls, cache: Cache, stops: int | Sequence[int]) -> "Prefix":
        """The first tokens of each row of what a forward pass has put into a cache.

        Args:
            cache: filled from rows that all start in column 0.
            stops: how many tokens, for all rows or for each; rows that keep fewer are shifted so
                that all end in one column, as `tokens.pad` aligns them.
        """
        if isinstance(stops, int):
            pairs = [(layer.keys[:, :, :stops], layer.values[:, :, :stops]) for layer in cache.layers]
            return cls(pairs)
        lengths = torch.tensor(stops)
        width = int(lengths.max())
        columns = (torch.arange(width) - (width - lengths[:, None])).clamp(min=0)
        return cls([(_take(x.keys, columns), _take(x.values, columns)) for x in cache.layers])


def _take(
    states: Float[Tensor, "row head pos width"], columns: Int[Tensor, "row column"]
) -> Float[Tensor, "row head column width"]:
    """Each row's states at its own columns; a column that repeats is padding, to be masked."""
    rows, heads, _, width = states.shape
    index = columns.to(states.device)[:, None, :, None].expand(rows, heads, -1, width)
    return states.gather(2, index)


class _GrowingLayer(CacheLayerMixin):
    """One layer's keys and values of a sequence that grows, in room reserved at its first token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity, self._length = capacity, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve the room."""
        for name, new in (("keys", key_states), ("values", value_states)):
            rows, heads, _, width = new.shape
            setattr(self, name, new.new_empty(rows, heads, self._capacity, width))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens behind the old ones, in place, and return all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, stop = self._length, self._length + key_states.shape[2]
        self.keys[:, :, start:stop] = key_states
        self.values[:, :, start:stop] = value_states
        self._length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        return self._length

    def get_max_length(self) -> int:
        return -1


def recording_cache(n_layers: int, capacity: int, prefix: Prefix | None = None) -> Cache:
    """A cache that keeps every token at every layer, sliding windows or not.

    Args:
        n_layers: of the model.
        capacity: most tokens it will hold.
        prefix: tokens to begin with; none by default.
    """
    cache = Cache(layers=[_GrowingLayer(capacity) for _ in range(n_layers)])
    if prefix is not None:
        for growing, fixed in zip(cache.layers, prefix.layers, strict=True):
            growing.update(fixed.keys, fixed.values)
    return cache


@dataclass(frozen=True, slots=True)
class Frame:
    """A batch of tokens ready to enter the layers.

    Attributes:
        entry: the input of layer 0, (batch, pos, d_model).
        calls: for each layer the arguments, besides the hidden state, that the model passes it.
    """

    entry: Hidden
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]


class _StandIn(nn.Module):
    """Takes a layer's place: notes what it is called with, and hands on `replacement` or its input.

    Attributes that the model reads off its layers (such as `attention_type`) are the real layer's.
    """

    def __init__(self, real: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self.__dict__["real"] = real  # not registered as a submodule
        self.returns_tuple = returns_tuple
        self.seen: tuple[Tensor, tuple[Any, ...], dict[str, Any]] | None = None
        self.replacement: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["real"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen = (hidden_states, args, kwargs)
        out = hidden_states if self.replacement is None else self.replacement
        return (out, None) if self.returns_tuple else out


class Shell:
    """A model without its layers: its front makes frames, its tail reads states out.

    Args:
        model: the caller's model; shared, not modified.
        layers_path: dotted path of the list of decoder layers.
        returns_tuple: whether a layer returns a tuple that begins with the hidden state.
    """

    def __init__(self, model: PreTrainedModel, layers_path: str, returns_tuple: bool) -> None:
        layers = model.get_submodule(layers_path)
        self._stand_ins = [_StandIn(layer, returns_tuple) for layer in layers.children()]
        self._root = _shallow(model)
        parent: nn.Module = self._root
        *owners, list_name = layers_path.split(".")
        for name in owners:
            child = _shallow(parent.get_submodule(name))
            parent._modules[name] = child
            parent = child
        parent._modules[list_name] = nn.ModuleList(self._stand_ins)
        self._base = parent
        self._embed_width = model.get_input_embeddings().weight.shape[1]
        self._takes_positions = "position_ids" in inspect.signature(type(parent).forward).parameters

    def frame(
        self, batch: TokenBatch, cache: Cache | None = None, start: int = 0, rows: int | None = None
    ) -> Frame:
        """Embed columns `start` onwards of a batch and work out what each layer will need.

        Args:
            batch: the tokens, columns left of `start` included.
            cache: keys and values of columns left of `start` (a `Prefix`), or an empty cache that
                is to be filled while the layers run.
            start: first column to run.
            rows: run this many rows, the batch repeated, instead of the batch's own number.
        """
        repeats = 1 if rows is None else rows // batch.n_rows
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids[:, start:].repeat(repeats, 1),
            "attention_mask": (
                batch.is_token.long().repeat(repeats, 1) if batch.pads_left else None
            ),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        if self._takes_positions:
            inputs["position_ids"] = batch.position_ids[:, start:].repeat(repeats, 1)
        type(self._base).forward(self._base, **inputs)
        seen = [stand_in.seen for stand_in in self._stand_ins]
        frame = Frame(
            entry=seen[0][0] if seen[0] else torch.empty(0),
            calls=[(args, kwargs) for item in seen if item for _, args, kwargs in [item]],
        )
        for stand_in in self._stand_ins:
            stand_in.seen = None
        return frame

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that leave the last layer: final norm, head, and any scaling or cap."""
        first = self._stand_ins[0]
        # One token per row: the tail works on each position alone, and no context limit applies.
        embeds = hidden.new_zeros(hidden.shape[0], 1, self._embed_width)
        first.replacement = hidden[:, None]
        try:
            output = type(self._root).forward(self._root, inputs_embeds=embeds, use_cache=False)
        finally:
            for stand_in in self._stand_ins:
                stand_in.replacement = stand_in.seen = None
        return output.logits[:, 0]


def _shallow(module: nn.Module) -> Any:
    """A copy that shares submodules and parameters but can have submodules of its own.

    Hooks stay with the original, and so does a `forward` that another library put on the object.
    """
    clone = copy.copy(module)
    clone.__dict__["_modules"] = dict(module._modules)
    clone.__dict__["_forward_hooks"] = OrderedDict()
    clone.__dict__["_forward_pre_hooks"] = OrderedDict()
    clone.__dict__.pop("forward", None)
    return clone


def select_rows(hidden: Hidden, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_model"]:
    """Each row's state at its own position."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), positions]
