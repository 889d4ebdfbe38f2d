"""Reading and writing the states of a model while it runs.

A `Site` names a state by layer and stream instead of by module path. `record` and `intervene` are
context managers: their hooks exist inside the block and nowhere else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from factlab.arguments import checked

State = Float[Tensor, "batch pos width"]


class Stream(StrEnum):
    """Which state of a layer.

    `EMBED` is the output of the token embedding, before positions are added (its layer is 0);
    `BLOCK` is what a layer hands to the next; `ATTN` and `MLP` are what the attention and MLP
    output projections add to the residual stream; `MLP_HIDDEN` is the input of the MLP output
    projection, the *key* of the ROME paper.
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

    def layer(self, index: int) -> nn.Module:
        """The decoder layer with this index."""
        ...

    def module(self, site: Site) -> nn.Module:
        """The module whose input or output is the state at `site`."""
        ...


@checked()
@contextmanager
def intervene(
    lm: HasModules, interventions: Mapping[Site, Callable[[State], State]]
) -> Iterator[None]:
    """Replace states while the model runs: each function maps a state to what takes its place.

    States have shape (batch, pos, width) whatever the module's own habits are.

    Example:
        `with intervene(lm, {Site(3, Stream.MLP): lambda state: 0 * state}): lm.model(**inputs)`
    """
    with ExitStack() as stack:
        for site, function in interventions.items():
            for handle in _attach(lm, site, function):
                stack.callback(handle.remove)
        yield


@checked()
@contextmanager
def record(lm: HasModules, sites: Iterable[Site]) -> Iterator[dict[Site, State]]:
    """Collect copies of states while the model runs; the dict fills as the sites are reached."""
    states: dict[Site, State] = {}

    def keep(site: Site) -> Callable[[State], State]:
        def function(state: State) -> State:
            states[site] = state.clone()  # some layers go on adding to it in place
            return state

        return function

    with intervene(lm, {site: keep(site) for site in sites}):
        yield states


def _attach(
    lm: HasModules, site: Site, function: Callable[[State], State]
) -> list[RemovableHandle]:
    """Hook one site. Everything that families do differently with states is dealt with here."""
    module = lm.module(site)
    rows: list[int] = []

    # OPT's MLP sees (batch·pos, width): remember the batch from the layer's input, and fold back.
    def note_rows(_layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        rows[:] = [hidden.shape[0]] if isinstance(hidden, Tensor) else []

    def on_state(state: Tensor) -> Tensor:
        if state.ndim == 3:
            return function(state)
        folded = state.view(rows[0], -1, state.shape[-1])
        return function(folded).view(state.shape)

    def on_input(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (on_state(args[0]), *args[1:])

    # Most layers return a tensor, some a tuple that begins with it.
    def on_output(_module: nn.Module, _args: object, output: object) -> object:
        if isinstance(output, tuple):
            return (on_state(output[0]), *output[1:])
        if not isinstance(output, Tensor):
            raise TypeError(f"{site} gave a {type(output).__name__}, not a tensor")
        return on_state(output)

    handles: list[RemovableHandle] = []
    if site.stream in (Stream.MLP, Stream.MLP_HIDDEN):
        layer = lm.layer(site.layer)
        handles.append(layer.register_forward_pre_hook(note_rows, with_kwargs=True))
    if site.stream is Stream.MLP_HIDDEN:
        handles.append(module.register_forward_pre_hook(on_input))
    else:
        handles.append(module.register_forward_hook(on_output))
    return handles
