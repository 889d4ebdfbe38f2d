"""Keys of any layer's memory, while a model runs: of one MLP, or of all its experts side by side.

Of a plain MLP the keys themselves are recorded. Of experts only what they are called with is, which
is as wide as the residual stream; stacked keys are worked out afterwards, of the tokens that are
asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, Site, Stream, attached, record
from factlab.models.engines.engine import select_rows
from factlab.models.experts import Mixture, Routed, Shared, expert_keys, routed, stacked_keys
from factlab.precision import widened

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
def recorded_keys(
    lm: "LanguageModel", layers: Iterable[int], shared: bool = False
) -> Iterator[Mapping[int, LayerKeys]]:
    """Keep the keys of some layers while the model runs; the mapping fills as they are reached.

    Args:
        lm: the model.
        layers: 0-based.
        shared: at mixtures, of the expert that every token goes through, not of the others.
    """
    taps: dict[int, _Tap] = {}
    sites: list[Site] = []
    for layer in layers:
        mixture = lm.layers.mixture(layer)
        if shared:
            taps[layer] = _SharedTap(lm, layer, lm.layers.shared(layer))
        elif mixture is not None:
            taps[layer] = _ExpertTap(lm, layer, mixture)
        else:
            sites.append(Site(layer, Stream.MLP_HIDDEN))
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


class _Tap(ABC):
    """Notes what a part of one layer is called with."""

    def __init__(self, lm: "LanguageModel", layer: int) -> None:
        self.lm, self.layer, self.rows = lm, layer, 1

    @property
    def hooks(self) -> list[Hook]:
        """On the layer, which knows how many rows there are, and on the part."""
        note = Hook(self.lm.layer(self.layer), self._note_rows, before=True, with_kwargs=True)
        return [note, *self._own_hooks()]

    @abstractmethod
    def _own_hooks(self) -> list[Hook]: ...

    @property
    @abstractmethod
    def found(self) -> LayerKeys:
        """The keys.

        Raises:
            UnsupportedModelError: the part did not run.
        """

    def _note_rows(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows = len(args[0] if args else kwargs["hidden_states"])

    def _by_row(self, state: Tensor) -> Tensor:
        """From (batch·pos, …) to the caller's rows and columns; see `factlab.columns`."""
        by_row = state.unflatten(0, (self.rows, -1))
        inner = by_row.shape[2:]
        return self.lm.columns.seen(by_row.flatten(2)).unflatten(2, inner)

    def _did_not_run(self) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"The experts of layer {self.layer} of {self.lm.name} were not called for this text, "
            "so it has no keys there."
        )


class _ExpertTap(_Tap):
    """What the experts are called with."""

    def __init__(self, lm: "LanguageModel", layer: int, mixture: Mixture) -> None:
        super().__init__(lm, layer)
        self._mixture = mixture
        self._container = lm.layer(layer).get_submodule(mixture.path)
        self._seen: Routed | None = None

    def _own_hooks(self) -> list[Hook]:
        return [Hook(self._container, self._note, before=True, with_kwargs=True)]

    @property
    def found(self) -> ExpertKeys:
        """See `_Tap`."""
        if self._seen is None:
            raise self._did_not_run()
        return ExpertKeys(self._mixture, self._container, self._seen)

    @torch.no_grad()
    def _note(self, container: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls = routed(self._mixture, container, args, kwargs)
        self._seen = Routed(*(self._by_row(each) for each in calls))


class _SharedTap(_Tap):
    """Keys of the expert that every token goes through, and its weights if it has a gate."""

    def __init__(self, lm: "LanguageModel", layer: int, shared: Shared) -> None:
        super().__init__(lm, layer)
        inside = lm.layer(layer).get_submodule
        self._projection = inside(shared.projection)
        self._gate = None if shared.gate is None else inside(shared.gate)
        self._keys: Tensor | None = None
        self._weights: Tensor | None = None

    def _own_hooks(self) -> list[Hook]:
        hooks = [Hook(self._projection, self._note_key, before=True)]
        return hooks if self._gate is None else [*hooks, Hook(self._gate, self._note_weight)]

    @property
    def found(self) -> DenseKeys:
        """See `_Tap`."""
        if self._keys is None or (self._gate is not None and self._weights is None):
            raise self._did_not_run()
        return DenseKeys(self._keys if self._weights is None else self._keys * self._weights)

    def _note_key(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        keys = args[0].detach().clone()
        self._keys = widened(self._by_row(keys.flatten(0, -2)))

    def _note_weight(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        weights = output.detach().sigmoid()
        self._weights = widened(self._by_row(weights.flatten(0, -2)))
