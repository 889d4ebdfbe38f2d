"""Reading and writing the states of a model while it runs.

A `Site` names a state by layer and stream instead of by module path. `record` and `intervene` are
context managers: their hooks exist inside the block and nowhere else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from factlab.arguments import checked
from factlab.columns import ALL, Columns
from factlab.interrupts import undone

State = Float[Tensor, "batch pos width"]


class Stream(StrEnum):
    """Which state of a layer.

    `EMBED` is the output of the token embedding, before positions are added (its layer is 0);
    `BLOCK` is what a layer hands to the next; `ATTN` and `MLP` are what attention, or what mixes
    tokens in its place, and the MLP add to the residual stream; `MLP_HIDDEN` is the input of the
    MLP's output projection, the *key* of the ROME paper.
    """

    EMBED = "embed"
    BLOCK = "block"
    ATTN = "attn"
    MLP = "mlp"
    MLP_HIDDEN = "mlp_hidden"


class Site(NamedTuple):
    """A place in the model: a layer (0-based) and one of its streams."""

    layer: int
    stream: Stream


@runtime_checkable
class HasModules(Protocol):
    """What `record` and `intervene` need of a model."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Is held while hooks are on the model, so that other threads do not meet them."""
        ...

    @property
    def columns(self) -> Columns:
        """Which columns of what runs just now are the caller's."""
        ...

    @property
    def streams(self) -> str | None:
        """Where the dimension of several residual streams is: "first" or "behind tokens"."""
        ...

    def layer(self, index: int) -> nn.Module:
        """The decoder layer with this index."""
        ...

    def module(self, site: Site) -> nn.Module:
        """The module whose input or output is the state at `site`."""
        ...


def with_first(output: tuple[Any, ...] | list[Any], state: Tensor) -> object:
    """What a layer returned, with another state at its head."""
    if hasattr(output, "_replace"):  # a named tuple
        return type(output)(state, *output[1:])
    return type(output)([state, *output[1:]])


class Hook(NamedTuple):
    """A function that a module calls when it runs.

    Attributes:
        module: that calls it.
        function: as `register_forward_hook` takes it, or `register_forward_pre_hook`.
        before: whether it is called before the module.
        with_kwargs: whether it is given keyword arguments too; before the module only.
    """

    module: nn.Module
    function: Callable[..., Any]
    before: bool = False
    with_kwargs: bool = False

    def attach(self) -> None:
        """Put it on the module."""
        if self.before:
            self.module.register_forward_pre_hook(self.function, with_kwargs=self.with_kwargs)
        else:
            self.module.register_forward_hook(self.function)

    def detach(self) -> None:
        """Take it off, if it is on: known by the function, since an interrupt may lose a handle."""
        module = self.module
        hooks = module._forward_pre_hooks if self.before else module._forward_hooks
        for number in [n for n, function in hooks.items() if function is self.function]:
            module._forward_pre_hooks_with_kwargs.pop(number, None)
            del hooks[number]


@contextmanager
def attached(hooks: Sequence[Hook]) -> Iterator[None]:
    """Hooks that are there inside the block and nowhere else, wherever an interrupt falls."""
    with undone(partial(_detach, hooks)):
        for hook in hooks:
            hook.attach()
        yield


def _detach(hooks: Sequence[Hook]) -> None:
    for hook in hooks:
        hook.detach()


@checked()
@contextmanager
def intervene(
    lm: HasModules, interventions: Mapping[Site, Callable[[State], State]]
) -> Iterator[None]:
    """Replace states while the model runs: each function maps a state to what takes its place.

    States have shape (batch, pos, width) whatever the module's own habits are.

    Examples:
        Without the MLP of layer 1, the model says something else:

        >>> site = fl.hooks.Site(1, fl.hooks.Stream.MLP)
        >>> inputs = lm.tokenizer("The Eiffel Tower is in", return_tensors="pt")
        >>> with fl.hooks.intervene(lm, {site: lambda state: 0 * state}):
        ...     changed = lm.model(**inputs).logits
        >>> bool((changed == lm.model(**inputs).logits).all())
        False
    """
    taps = [_Tap(site, function) for site, function in interventions.items()]
    with lm.lock, attached([hook for tap in taps for hook in tap.hooks(lm)]):
        yield


@checked()
@contextmanager
def record(lm: HasModules, sites: Iterable[Site]) -> Iterator[dict[Site, State]]:
    """Collect copies of states while the model runs; the dict fills as the sites are reached.

    Examples:
        >>> site = fl.hooks.Site(1, fl.hooks.Stream.MLP)
        >>> inputs = lm.tokenizer("The Eiffel Tower is in", return_tensors="pt")
        >>> with fl.hooks.record(lm, [site]) as states:
        ...     _ = lm.model(**inputs)
        >>> states[site].shape[-1] == lm.d_model
        True
    """
    states: dict[Site, State] = {}
    with intervene(lm, {site: partial(_keep, states, site) for site in sites}):
        yield states


def _keep(states: dict[Site, Tensor], site: Site, state: Tensor) -> Tensor:
    states[site] = state.clone()  # some layers go on adding to it in place
    return state


class _Tap:
    """A function at one site. Everything that families do differently with states is here."""

    def __init__(self, site: Site, function: Callable[[State], State]) -> None:
        self._site, self._function = site, function
        self._rows: int | None = None
        self._lm: HasModules | None = None

    def hooks(self, lm: HasModules) -> list["Hook"]:
        """Of the module, and where it must be known how many rows there are, of its layer."""
        self._lm = lm
        stream, module = self._site.stream, lm.module(self._site)
        hooks: list[Hook] = []
        if stream in (Stream.MLP, Stream.MLP_HIDDEN):
            layer = lm.layer(self._site.layer)
            hooks.append(Hook(layer, self._note_rows, before=True, with_kwargs=True))
        if stream is Stream.MLP_HIDDEN:
            hooks.append(Hook(module, self._on_input, before=True))
        else:
            hooks.append(Hook(module, self._on_output))
        return hooks

    def _note_rows(
        self, _layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._rows = hidden.shape[0] if isinstance(hidden, Tensor) else None

    def _on_input(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._on_state(args[0]), *args[1:])

    def _on_output(self, _module: nn.Module, _args: object, output: object) -> object:
        # Most layers return a tensor, some a tuple or a list that begins with it.
        if isinstance(output, tuple | list):
            return with_first(output, self._on_state(output[0]))
        if not isinstance(output, Tensor):
            raise TypeError(f"{self._site} gave a {type(output).__name__}, not a tensor")
        return self._on_state(output)

    def _on_state(self, state: Tensor) -> Tensor:
        if state.ndim == 3:
            return self._on_rows(state)
        if state.ndim == 4 and self._lm is not None:  # several residual streams: seen as one
            is_first = self._lm.streams == "first"
            side_by_side = state.permute(1, 2, 0, 3) if is_first else state
            n_streams = side_by_side.shape[2]
            changed = self._on_rows(side_by_side.flatten(2)).unflatten(2, (n_streams, -1))
            return changed.permute(2, 0, 1, 3) if is_first else changed
        # OPT's MLP sees (batch·pos, width): fold it back into rows.
        if self._rows is None:
            raise TypeError(f"{self._site} has no rows that its layer has seen")
        folded = state.view(self._rows, -1, state.shape[-1])
        return self._on_rows(folded).view(state.shape)

    def _on_rows(self, state: State) -> State:
        columns = ALL if self._lm is None else self._lm.columns
        return columns.with_seen(state, self._function(columns.seen(state)))
