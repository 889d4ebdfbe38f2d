"""Rows whose lookup tokens stand in one column, run from there on; what is left of it is kept.

Rows come fact by fact, one for each context. What all facts' rows behind a context begin with is
run once for all of them. Column 0 of what is run is the lookup token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.engines.engine import Hidden
from factlab.models.engines.kept import Prefix
from factlab.models.language_model import LanguageModel
from factlab.tokens import pad


@dataclass(frozen=True, slots=True)
class SharedContexts:
    """Keys and values of what all facts' rows behind a context begin with.

    Attributes:
        lengths: for each context, and the essence prompt, how many tokens are shared.
        prefix: their keys and values, rows aligned at their ends; None if nothing is shared.
    """

    lengths: list[int]
    prefix: Prefix | None

    @classmethod
    def of(cls, lm: LanguageModel, facts: Sequence[Sequence[Continuation]]) -> "SharedContexts":
        """Run what is shared, unless memory has no room for it all at once.

        Args:
            lm: the model.
            facts: the rows of every fact that will use them.
        """
        shared = [
            _common_start([row.inputs[: row.lookup] for row in column])
            for column in zip(*facts, strict=True)
        ]
        lengths = [len(ids) for ids in shared]
        if not any(lengths) or len(lengths) * max(lengths) > lm.budget.cached_tokens():
            return cls([0] * len(lengths), None)
        # A row needs a token to run; nobody will look at the 0 that stands for none.
        batch = pad([ids or [0] for ids in shared], lm.device)
        cache = lm.recording(batch.width)
        lm.run(lm.frame(batch, cache))
        return cls(lengths, cache.prefix(lengths))

    @property
    def width(self) -> int:
        """Columns of the prefix."""
        return max(self.lengths)

    def only(self, numbers: Sequence[int]) -> "SharedContexts":
        """Some of the contexts."""
        lengths = [self.lengths[i] for i in numbers]
        if self.prefix is None or not any(lengths):
            return SharedContexts([0] * len(lengths), None)
        start = self.width - max(lengths)
        return SharedContexts(lengths, self.prefix.rows(numbers).without(start))


def _common_start(rows: Sequence[Sequence[int]]) -> list[int]:
    """The tokens with which all rows begin."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in same]


class AlignedRows:
    """Some rows, ready for δ to be added at their lookup tokens; make it inside `lm.frozen()`.

    Args:
        lm: the model.
        rows: of some facts behind contexts.
        shared: these contexts.
        site: where δ is added: the output of an MLP, or of a layer.

    Attributes:
        initial: v₀ of each row: the state at the site.
    """

    @torch.no_grad()
    def __init__(
        self, lm: LanguageModel, rows: Sequence[Continuation], shared: SharedContexts, site: Site
    ) -> None:
        self._lm, self._site = lm, site
        positions = [row.lookup for row in rows]
        self._left = left_of_lookup(lm, rows, shared)
        self._batch = pad([row.inputs for row in rows], lm.device, align=positions)
        self._lookup = max(positions)
        self._frame = lm.frame(self._batch, self._left, self._lookup)
        with record(lm, [site]) as states:
            self._entry = lm.run(self._frame, stop=site.layer)
            above = lm.run(self._frame, self._entry, first=site.layer, stop=site.layer + 1)
        self._first_layer = site.layer
        if site.stream is Stream.BLOCK:
            self._entry, self._first_layer = above, site.layer + 1
        self.initial: Float[Tensor, "row d_model"] = states[site][:, 0]

    def run(self, added: Float[Tensor, "row d_model"]) -> Hidden:
        """What leaves the last layer, with a vector added to each row."""
        add = partial(_add_to_first, added)
        if self._site.stream is Stream.BLOCK:
            return self._lm.run(self._frame, add(self._entry), first=self._first_layer)
        with intervene(self._lm, {self._site: add}):
            return self._lm.run(self._frame, self._entry, first=self._first_layer)

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._batch = self._batch.rows(numbers)
        self._left = self._left.rows(numbers)
        self._frame = self._lm.frame(self._batch, self._left, self._lookup)
        self._entry = self._entry[torch.tensor(numbers, device=self._entry.device)]


def _add_to_first(added: Float[Tensor, "row d_model"], state: Hidden) -> Hidden:
    moved = state.clone()
    moved[:, 0] += added.to(state)
    return moved


def left_of_lookup(
    lm: LanguageModel, rows: Sequence[Continuation], shared: SharedContexts
) -> Prefix:
    """Keys and values of all tokens left of the lookup token, rows aligned at it."""
    n_facts = len(rows) // len(shared.lengths)
    lengths = shared.lengths * n_facts
    # A row needs a token to run; where none is left of the lookup token, that one stands in.
    texts = [row.inputs[: max(row.lookup, n + 1)] for row, n in zip(rows, lengths, strict=True)]
    batch = pad(texts, lm.device, align=lengths)
    cache = lm.recording(batch.width)
    if shared.prefix is not None:
        cache.begin_with(shared.prefix, n_facts)
    lm.run(lm.frame(batch, cache, start=shared.width))
    positions = [row.lookup for row in rows]
    return cache.prefix(positions, starts=[shared.width - n for n in lengths])
