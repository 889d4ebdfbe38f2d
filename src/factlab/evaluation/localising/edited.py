"""Asking many edited models the same rows, each from the first layer that its edit changes.

The unedited model runs every row once. What enters the layers at which edits begin is kept, and
every edited model goes on from there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from factlab.continuations import Continuation
from factlab.models.changes.carried import Carried, carrying
from factlab.models.engines.engine import Hidden
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, read_tokens
from factlab.tokens import TokenBatch, groups, pad


class _Batch(NamedTuple):
    """Rows that run together.

    Attributes:
        numbers: of the rows.
        tokens: of them.
        entries: what enters some layers.
    """

    numbers: list[int]
    tokens: TokenBatch
    entries: dict[int, Hidden]


class KeptRows:
    """Rows as the unedited model runs them; make and use it inside `lm.frozen()`.

    Args:
        lm: the model, in the block of any noise on the rows.
        rows: each with its targets.
        layers: where edits begin.

    Attributes:
        logprobs: of each row's targets, natural, summed over their tokens.
    """

    @torch.no_grad()
    def __init__(
        self, lm: LanguageModel, rows: Sequence[Continuation], layers: Sequence[int]
    ) -> None:
        self._lm, self._rows, self._batches = lm, rows, list[_Batch]()
        self.logprobs = [math.nan] * len(rows)
        lengths, room = (
            [len(row.inputs) for row in rows],
            lm.budget.at_most(max(1, len(layers)) * lm.budget.sizes.state, 0.25),
        )
        for numbers in groups(lengths, lm.budget.pass_tokens(), lm.budget.enough_tokens):
            tokens = pad([rows[i].inputs for i in numbers], lm.device)
            frame = lm.frame(tokens)
            state, at, entries = frame.entry, 0, dict[int, Hidden]()
            room -= tokens.n_rows * tokens.width
            for layer in sorted(set(layers)) if room >= 0 else ():
                state = lm.run(frame, state, first=at, stop=layer) if layer > at else state
                entries[layer], at = state, layer
            hidden = lm.run(frame, state, first=at)
            self._batches.append(_Batch(numbers, tokens, entries))
            for i, value in zip(numbers, self._read(hidden, numbers), strict=True):
                self.logprobs[i] = value

    @torch.no_grad()
    def edited(
        self, layer: int, asked: Sequence[tuple[int, int]], changes: Mapping[str, Carried]
    ) -> list[float]:
        """The log-probabilities of some rows' targets in edited models.

        Args:
            layer: nothing below it is changed.
            asked: numbers of rows, each with that of its edit.
            changes: what the edits stand for (`row_changes`).
        """
        found = [math.nan] * len(asked)
        places: dict[int, list[int]] = {}
        for place, (number, _) in enumerate(asked):
            places.setdefault(number, []).append(place)
        for batch in self._batches:
            here = [
                (column, place)
                for column, number in enumerate(batch.numbers)
                for place in places.get(number, ())
            ]
            at_once = max(1, self._lm.budget.pass_tokens() // batch.tokens.width)
            for start in range(0, len(here), at_once):
                some = here[start : start + at_once]
                owners = [asked[place][1] for _, place in some]
                values = self._run(batch, [column for column, _ in some], owners, layer, changes)
                for (_, place), value in zip(some, values, strict=True):
                    found[place] = value
        return found

    def _run(
        self,
        batch: _Batch,
        columns: Sequence[int],
        owners: Sequence[int],
        layer: int,
        changes: Mapping[str, Carried],
    ) -> list[float]:
        """Some rows of a batch from a layer on; from their tokens where nothing is kept."""
        frame = self._lm.frame(batch.tokens.rows(columns))
        entry, first = frame.entry, 0
        if layer in batch.entries:
            kept = batch.entries[layer]
            entry, first = kept[torch.tensor(columns, device=kept.device)], layer
        with carrying(self._lm, changes, owners):
            hidden = self._lm.run(frame, entry, first=first)
        return self._read(hidden, [batch.numbers[column] for column in columns])

    def _read(self, hidden: Hidden, numbers: Sequence[int]) -> list[float]:
        rows = [self._rows[i] for i in numbers]
        reads = Reads.of(rows)
        logprobs, _ = read_tokens(self._lm, reads.states(hidden), reads.ids)
        parts: Sequence[Tensor] = (
            logprobs.cpu().double().split([len(row.target_ids) for row in rows])
        )
        return [float(part.sum()) for part in parts]
