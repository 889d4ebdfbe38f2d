"""Keys of any layer's memory, while a model runs: of one MLP, or of all its experts side by side.

Of a plain MLP the keys themselves are recorded. Of experts only what they are called with is, which
is as wide as the residual stream; stacked keys are worked out afterwards, of the tokens that are
asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, Site, Stream, attached, record
from factlab.models.engines.engine import select_rows
from factlab.models.experts import Mixture, Routed, expert_keys, routed, stacked_keys

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


class LayerKeys(ABC):
    """Keys of one layer for a batch that was run."""

    @abstractmethod
    def at(self, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_mlp"]:
        """Each row's key at its own position."""

    @abstractmethod
    def weights_at(self, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """The router's weights there, 0 for experts that were not chosen.

        None if there is no router, or its weights are in what enters the experts.
        """

    @abstractmethod
    def blocks(
        self, is_token: Bool[Tensor, "batch pos"]
    ) -> Iterator[tuple[int, Float[Tensor, "key d_block"]]]:
        """All keys, by expert: of each the number and those that are not zero."""


@dataclass(frozen=True, slots=True)
class DenseKeys(LayerKeys):
    """Keys of a plain MLP.

    Attributes:
        states: as recorded.
    """

    states: Float[Tensor, "batch pos d_mlp"]

    def at(self, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_mlp"]:
        """See `LayerKeys`."""
        return select_rows(self.states, positions.to(self.states.device))

    def weights_at(self, positions: Int[Tensor, " batch"]) -> None:
        """There is no router."""

    def blocks(
        self, is_token: Bool[Tensor, "batch pos"]
    ) -> Iterator[tuple[int, Float[Tensor, "key d_block"]]]:
        """One block with the keys of all tokens."""
        yield 0, self.states[is_token.to(self.states.device)]


@dataclass(frozen=True, slots=True)
class ExpertKeys(LayerKeys):
    """Stacked keys of experts.

    Attributes:
        mixture: how the experts are kept and called.
        container: the experts.
        calls: what they were called with, (batch, pos, …).
    """

    mixture: Mixture
    container: nn.Module
    calls: Routed

    def at(self, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_mlp"]:
        """See `LayerKeys`."""
        batch = torch.arange(len(positions), device=positions.device)
        rows = Routed(*(each[batch, positions] for each in self.calls))
        return stacked_keys(self.mixture, self.container, rows)

    def weights_at(self, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """See `LayerKeys`."""
        if self.mixture.sorted_rows:
            return None
        return select_rows(self.calls.weights, positions.to(self.calls.weights.device))

    def blocks(
        self, is_token: Bool[Tensor, "batch pos"]
    ) -> Iterator[tuple[int, Float[Tensor, "key d_block"]]]:
        """A block for each expert, with the keys of the tokens that were sent to it."""
        tokens = Routed(*(each[is_token.to(each.device)] for each in self.calls))
        for expert in range(self.mixture.n_experts):
            _, keys = expert_keys(self.mixture, self.container, tokens, expert)
            yield expert, keys


@contextmanager
def recorded_keys(lm: "LanguageModel", layers: Iterable[int]) -> Iterator[Mapping[int, LayerKeys]]:
    """Keep the keys of some layers while the model runs; the mapping fills as they are reached."""
    layers = list(layers)
    mixtures = {i: m for i in layers if (m := lm.layers.mixture(i)) is not None}
    sites = [Site(i, Stream.MLP_HIDDEN) for i in layers if i not in mixtures]
    taps = {i: _Tap(lm, i, mixture) for i, mixture in mixtures.items()}
    hooks = [hook for tap in taps.values() for hook in tap.hooks]
    with lm.lock, record(lm, sites) as states, attached(hooks):
        yield _Found(states, taps)


class _Found(Mapping[int, LayerKeys]):
    """What has been recorded so far."""

    def __init__(self, states: Mapping[Site, Tensor], taps: "Mapping[int, _Tap]") -> None:
        self._states, self._taps = states, taps

    def __getitem__(self, layer: int) -> LayerKeys:
        if layer in self._taps:
            return self._taps[layer].found
        return DenseKeys(self._states[Site(layer, Stream.MLP_HIDDEN)])

    def __iter__(self) -> Iterator[int]:
        yield from (site.layer for site in self._states)
        yield from self._taps

    def __len__(self) -> int:
        return len(self._states) + len(self._taps)


@dataclass
class _Tap:
    """Notes what the experts of one layer are called with."""

    lm: "LanguageModel"
    layer: int
    mixture: Mixture
    rows: int = 1
    seen: Routed | None = None
    container: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.container = self.lm.layer(self.layer).get_submodule(self.mixture.path)

    @property
    def hooks(self) -> list[Hook]:
        """On the layer, which knows how many rows there are, and on its experts."""
        return [
            Hook(self.lm.layer(self.layer), self._note_rows, before=True, with_kwargs=True),
            Hook(self.container, self._note, before=True, with_kwargs=True),
        ]

    @property
    def found(self) -> ExpertKeys:
        """The keys.

        Raises:
            UnsupportedModelError: the experts did not run.
        """
        if self.seen is None:
            raise UnsupportedModelError(
                f"The experts of layer {self.layer} of {self.lm.name} were not called for this "
                "text, so it has no keys there."
            )
        return ExpertKeys(self.mixture, self.container, self.seen)

    def _note_rows(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows = len(args[0] if args else kwargs["hidden_states"])

    @torch.no_grad()
    def _note(self, container: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls = routed(self.mixture, container, args, kwargs)
        by_row = (each.unflatten(0, (self.rows, -1)) for each in calls)
        self.seen = Routed(*(self._seen(each) for each in by_row))

    def _seen(self, state: Float[Tensor, "row pos *inner"]) -> Float[Tensor, "row some *inner"]:
        """The caller's columns; see `factlab.columns`."""
        inner = state.shape[2:]
        return self.lm.columns.seen(state.flatten(2)).unflatten(2, inner)
