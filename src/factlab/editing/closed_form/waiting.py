"""Facts that wait at the input of the layer that is written next.

Every fact has a row behind every context. What does not change below the layer need not be run
again, so rows wait there, in batches, as many as memory has room for. The others are run up from
their tokens whenever they are asked for, which takes longer and gives the same: whatever has been
changed below is carried then too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.editing.closed_form.lookup import (
    add_weighted,
    at_lookup,
    batch_tokens,
    lookup_places,
    prompt_rows,
    up_to_lookup,
)
from factlab.editing.noised import NoisedSubjects
from factlab.facts import Fact
from factlab.hooks import Site, Stream, record
from factlab.models.engines.engine import Frame, Hidden
from factlab.models.keys import recorded_keys
from factlab.models.language_model import LanguageModel
from factlab.tokens import groups, pad
from factlab.wrapping import Context

# States that are kept of a token that waits: at the layer, in its frame, and a new one for each.
_KEPT = 3


class WaitingFacts:
    """Facts behind their contexts; bare prompts go on to the top layer, to see what is missing.

    Make it, and run it, inside `lm.frozen()` and without gradients.

    Args:
        lm: the model.
        facts: to write.
        contexts: texts before the prompts; the first is empty.
        weights: of the contexts in a mean key.
        layer: where the facts wait first.
        noised: puts noise on the subjects; make it, and run it, in its block.
    """

    def __init__(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        contexts: Sequence[Context],
        weights: Float[Tensor, " context"],
        layer: int,
        noised: NoisedSubjects | None = None,
    ) -> None:
        self._weights = weights
        by_fact = [prompt_rows(lm, fact, contexts, "last", noised) for fact in facts]
        room = lm.budget.at_most(_KEPT * lm.budget.sizes.state, 0.5)
        self._bare = _WaitingRows(lm, [rows[0] for rows in by_fact], layer, room)
        behind = [row for rows in by_fact for row in rows[1:]]
        self._behind = _WaitingRows(lm, behind, layer, room - self._bare.n_kept)

    def keys(self) -> Float[Tensor, "fact d_mlp"]:
        """Mean keys at the layer."""
        keys = self._bare.mean_keys(self._weights[:1])
        if len(self._weights) > 1:
            keys += self._behind.mean_keys(self._weights[1:])
        return keys

    def outputs(self, top: int) -> Float[Tensor, "fact d_model"]:
        """h^L of the bare prompts."""
        only = torch.ones(1, dtype=torch.float64, device="cpu")
        return self._bare.mean_states(Site(top, Stream.BLOCK), only)

    def advance(self, layer: int) -> None:
        """Run all rows up to another layer and let them wait there."""
        self._bare.advance(layer)
        self._behind.advance(layer)


class _Run(NamedTuple):
    """A batch on its way up.

    Attributes:
        numbers: of its rows.
        frame: what the layers need.
        state: the input of a layer.
        first: this layer.
    """

    numbers: list[int]
    frame: Frame
    state: Hidden
    first: int


class _WaitingRows:
    """Rows of texts up to their lookup tokens.

    Args:
        lm: the model.
        rows: the texts.
        layer: where they wait first.
        room: how many tokens may wait.

    Attributes:
        layer: where they wait.
        n_kept: tokens that wait, padding included.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[Continuation], layer: int, room: int
    ) -> None:
        self._lm, self._rows = lm, rows
        self.layer, self.n_kept = layer, 0
        self._texts = [up_to_lookup(row) for row in rows]
        self._kept: list[_Run] = []
        self._others: list[list[int]] = []
        every = range(layer, lm.n_layers)  # they will wait at others than this too
        lengths, enough = [len(ids) for ids in self._texts], lm.budget.enough_tokens
        for numbers in groups(lengths, batch_tokens(lm, every), enough):
            n_tokens = len(numbers) * len(self._texts[numbers[-1]])
            if self.n_kept + n_tokens > room:
                self._others.append(numbers)
                continue
            self.n_kept += n_tokens
            begun = self._begun(numbers)
            state = lm.run(begun.frame, stop=layer)
            self._kept.append(begun._replace(state=state, first=layer))

    def _begun(self, numbers: list[int]) -> _Run:
        frame = self._lm.frame(pad([self._texts[i] for i in numbers], self._lm.device))
        return _Run(numbers, frame, frame.entry, 0)

    def _runs(self) -> Iterator[_Run]:
        yield from self._kept
        yield from map(self._begun, self._others)

    def mean_keys(self, weights: Float[Tensor, " context"]) -> Float[Tensor, "fact d_mlp"]:
        """Weighted sums of keys over the contexts of each fact; the rows stay where they are."""
        totals = self._zeros(self._lm.layers.d_mlp(self.layer), weights)
        with recorded_keys(self._lm, [self.layer]) as recorded:
            for run in self._runs():
                self._lm.run(run.frame, run.state, first=run.first, stop=self.layer + 1)
                found = recorded[self.layer].at(lookup_places(self._rows, run.numbers))
                add_weighted(totals, run.numbers, weights, found)
        return totals

    def mean_states(
        self, site: Site, weights: Float[Tensor, " context"]
    ) -> Float[Tensor, "fact d_model"]:
        """The same of states at a site."""
        totals = self._zeros(self._lm.d_model, weights)
        with record(self._lm, [site]) as states:
            for run in self._runs():
                self._lm.run(run.frame, run.state, first=run.first, stop=site.layer + 1)
                found = at_lookup(states[site], self._rows, run.numbers)
                add_weighted(totals, run.numbers, weights, found)
        return totals

    def _zeros(self, width: int, weights: Float[Tensor, " context"]) -> Tensor:
        n_facts = len(self._rows) // len(weights)
        return torch.zeros(n_facts, width, dtype=torch.float64, device="cpu")

    def advance(self, layer: int) -> None:
        """Run the rows further up."""
        for place, run in enumerate(self._kept):
            state = self._lm.run(run.frame, run.state, first=run.first, stop=layer)
            self._kept[place] = run._replace(state=state, first=layer)
        self.layer = layer
