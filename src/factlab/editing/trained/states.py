"""Texts at the input of the first block that is edited.

Whatever an editor does, nothing below that block changes: the states that enter it are worked out
once for every text of a training, and only the last blocks run again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.models.engines.engine import Frame, Hidden
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, wide_logits
from factlab.progress import ProgressCallback, silent
from factlab.tokens import groups, pad


@dataclass(frozen=True, slots=True)
class State:
    """What the unedited model makes of a text.

    Attributes:
        entry: what enters the first block that is edited, (pos, d_model).
        final: what leaves the last block where the text is read, (read, d_model).
    """

    entry: Float[Tensor, "pos d_model"]
    final: Float[Tensor, "read d_model"]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Texts ready to enter the first block that is edited.

    Attributes:
        continuations: the texts.
        frame: what the blocks need besides the states.
        entry: the states, padded on the right.
        first: the block they enter.
        is_token: False where a row is padded.
        final: what leaves the last block of the unedited model at each read, row by row.
        reads: where they are read, and the token that should come there, if any should.
    """

    continuations: tuple[Continuation, ...]
    frame: Frame
    entry: Hidden
    first: int
    is_token: Tensor
    final: Float[Tensor, "read d_model"]
    reads: Reads

    def logits(self, lm: LanguageModel) -> Float[Tensor, "read vocab"]:
        """Run the last blocks; what comes next at each read, in at least float32."""
        hidden = lm.run(self.frame, self.entry, first=self.first)
        return wide_logits(lm, self.reads.states(hidden))

    def unedited_logits(self, lm: LanguageModel) -> Float[Tensor, "read vocab"]:
        """The same of the unedited model; no block runs for it."""
        return wide_logits(lm, self.final)


class States:
    """States of texts, kept if they fit into half of the memory, else made anew for each batch.

    Either way they depend on the texts, their order and the memory alone, so that a training that
    was interrupted goes on with the same numbers; with other memory they differ by rounding.

    Args:
        lm: the unedited model.
        first: the first block that is edited.
        texts: all that will be asked for.
        progress: told how far it is.
    """

    def __init__(
        self,
        lm: LanguageModel,
        first: int,
        texts: Iterable[Continuation] = (),
        progress: ProgressCallback = silent,
    ) -> None:
        self._lm, self._first = lm, first
        self._kept: dict[Continuation, State] = {}
        unique = list(dict.fromkeys(texts))
        n_states = sum(len(text.inputs) + len(text.reads) for text in unique)
        if n_states <= lm.budget.at_most(lm.budget.sizes.state, 0.5):
            self._kept = self._made(unique, progress)

    def batch(self, texts: Sequence[Continuation]) -> RowBatch:
        """Put texts side by side."""
        missing = [r for r in dict.fromkeys(texts) if r not in self._kept]
        made = self._made(missing, silent) if missing else {}
        states = [made[text] if text in made else self._kept[text] for text in texts]
        batch = pad([text.inputs for text in texts], self._lm.device)
        entry = states[0].entry.new_zeros(batch.n_rows, batch.width, states[0].entry.shape[1])
        for row, state in enumerate(states):
            entry[row, : len(state.entry)] = state.entry
        with torch.no_grad():
            frame = self._lm.frame(batch)
        return RowBatch(
            tuple(texts), frame, entry, self._first, batch.is_token.to(entry.device),
            torch.cat([state.final for state in states]), Reads.of(texts),
        )  # fmt: skip

    @torch.no_grad()
    def _made(
        self, texts: Sequence[Continuation], progress: ProgressCallback
    ) -> dict[Continuation, State]:
        lm, states = self._lm, dict[Continuation, State]()
        costs = [len(text.inputs) for text in texts]
        with lm.frozen():
            for numbers in groups(costs, lm.budget.pass_tokens(), lm.budget.enough_tokens):
                batch = [texts[i] for i in numbers]
                frame = lm.frame(pad([text.inputs for text in batch], lm.device))
                entry = lm.run(frame, stop=self._first)
                last = lm.run(frame, entry, first=self._first)
                for row, text in enumerate(batch):
                    final = last[row, list(text.reads)]
                    states[text] = State(entry[row, : len(text.inputs)].clone(), final)
                progress("running what stays the same", len(states), len(texts))
        return states
