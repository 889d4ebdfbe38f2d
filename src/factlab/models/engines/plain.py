"""Whole forward passes, for a model whose layers cannot be run one by one.

Its own forward pass is called as it is. A state of ours is put in where the first layer that is
asked for begins, and the pass is left as soon as what is asked for has been reached. Layers below
run for nothing, so a step costs a whole pass; what can be done in one pass should be.

A layer may depend on more than the state that enters it, such as on keys of a layer far below.
These are then what the text itself gives, so states that are put in have to belong to it.
"""

from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.columns import Columns
from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, attached, with_first
from factlab.models.engines.engine import Engine, Frame, Hidden, first_argument, first_tensor
from factlab.models.engines.kept import Prefix, Recording
from factlab.models.engines.states import joined, on_the_left
from factlab.models.engines.tail import Reached, Tail
from factlab.tokens import TokenBatch
from factlab.transformers_api import accepts


class PlainPasses(Engine):
    """See the module.

    Args:
        model: the caller's model; used, not modified.
        layers: its decoder layers; none if no state of ours can be put in between them.
        runs: which of them a text goes through.
        bare: whether logits are what the head alone gives; see `Tail`.
    """

    name: ClassVar[str] = "whole passes"
    steps: ClassVar[bool] = False

    def __init__(
        self, model: PreTrainedModel, layers: list[nn.Module], runs: list[int], bare: bool
    ) -> None:
        self._model, self._layers, self._runs = model, layers, runs
        self._tail = Tail(model, bare)
        # Which arguments a forward pass declares; others would be refused, or passed on unread.
        self._takes = {
            name: accepts(type(model).forward, name) for name in ("attention_mask", "use_cache")
        }

    @property
    def n_layers(self) -> int:
        """See `Engine`."""
        return len(self._layers)

    def frame(
        self,
        batch: TokenBatch,
        left: Recording | Prefix | None = None,
        start: int = 0,
        rows: int | None = None,
    ) -> Frame:
        """See `Engine`."""
        flush, columns = on_the_left(batch, start)
        repeats = 1 if rows is None else rows // batch.n_rows
        ids = flush.input_ids.repeat(repeats, 1)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._takes["attention_mask"]:
            inputs["attention_mask"] = torch.ones_like(ids)
        if self._takes["use_cache"]:
            inputs["use_cache"] = False
        if self._layers:
            begins = Hook(self._layers[self._runs[0]], _keep_input, before=True, with_kwargs=True)
            entry = self._pass(inputs, columns, [begins])
        else:
            entry = torch.empty(*ids.shape, 0, device=ids.device)  # nothing can be put in its place
        return Frame(columns.seen(entry), [], left, columns, inputs)

    def step(self, frame: Frame, hidden: Hidden, layer: int) -> Hidden:
        """See `Engine`."""
        return self.run(frame, hidden, layer, layer + 1)

    def run(
        self, frame: Frame, hidden: Hidden | None = None, first: int = 0, stop: int | None = None
    ) -> Hidden:
        """See `Engine`."""
        inside = [i for i in self._runs if first <= i and (stop is None or i < stop)]
        if stop is not None and not inside:
            return frame.entry if hidden is None else hidden
        hooks = self._beginning(frame, frame.entry if hidden is None else hidden, inside)
        if isinstance(frame.left, Recording):
            for layer in inside[1:]:
                note = partial(_note, frame, layer)
                hooks.append(Hook(self._layers[layer], note, before=True, with_kwargs=True))
        if stop is None:
            hooks.append(self._tail.entering)
        else:
            hooks.append(Hook(self._layers[inside[-1]], _keep_output))
        return frame.columns.seen(self._pass(frame.inputs, frame.columns, hooks))

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """See `Engine`."""
        return self._tail.readout(hidden)

    def _beginning(self, frame: Frame, hidden: Hidden, inside: list[int]) -> list[Hook]:
        """A hook that puts a state in where the first of some layers begins, or behind all."""
        if not self._layers:
            return []  # all there is to run is the text
        if not inside:
            last = self._layers[self._runs[-1]]
            return [Hook(last, partial(_replace_output, frame.columns, hidden))]
        whole = frame.columns.inwards(joined(frame, hidden, inside[0]))
        put = partial(_replace_input, whole)
        return [Hook(self._layers[inside[0]], put, before=True, with_kwargs=True)]

    def _pass(self, inputs: dict[str, Any], columns: Columns, hooks: list[Hook]) -> Tensor:
        """The state at which a hook leaves the pass."""
        reached: list[Tensor] = []
        with attached(hooks), self._showing(columns):
            try:
                self._model(**inputs)
            except Reached as signal:
                (state,) = signal.args
                reached.append(state)
        if not reached:
            raise UnsupportedModelError(
                f"The forward pass of {type(self._model).__name__} does not reach its own layers."
            )
        return reached[0]


def _keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise Reached(first_argument(args, kwargs))


def _keep_output(_module: nn.Module, _args: object, output: object) -> None:
    raise Reached(first_tensor(output))


def _replace_input(
    state: Tensor, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args and isinstance(args[0], Tensor):
        return (state, *args[1:]), kwargs
    name = next(name for name, x in kwargs.items() if isinstance(x, Tensor))
    return args, {**kwargs, name: state}


def _replace_output(
    columns: Columns, state: Tensor, _module: nn.Module, _args: object, output: object
) -> object:
    whole = columns.with_seen(first_tensor(output), state)
    return with_first(output, whole) if isinstance(output, tuple | list) else whole


def _note(
    frame: Frame, layer: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    if isinstance(frame.left, Recording):
        state = first_argument(args, kwargs)
        if state is not None:
            frame.left.append(layer, frame.columns.seen(state)[:, None])
